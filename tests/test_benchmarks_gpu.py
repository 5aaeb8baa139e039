"""The benchmark for graphics cards, with tiny shapes on the CPU: that it runs to its end, also where a part fails."""

import jax
import numpy as np
import pytest
from attention_cases import oracle

from benchmarks import gpu
from benchmarks.card import _attention, _correct
from equimu._errors import EquimuError


@pytest.mark.parametrize("case", [_correct.CASES[3], _correct.CASES[8], _correct.CASES[9]], ids=lambda case: case.name)
def test_its_formula_is_that_of_the_oracle(case):
    case = type(case)(
        **{**vars(case), "seq_q": 20, "seq_k": 30 if case.q_offset else None, "q_offset": min(case.q_offset, 10)}
    )
    q, k, v, d_out, ids = case.arrays()
    options = dict(causal=case.causal, window=case.window, segment_ids=ids, q_offset=case.q_offset)
    out, gradients = oracle(q, k, v, d_out=d_out, scale=case.head_dim**-0.5, **options)
    for found, expected in zip(_correct.right(case, [q, k, v, d_out, ids]), (out, *gradients[:3]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 3])
def test_operations_are_counted_over_what_is_seen(causal, window):
    case = _attention.Case(seq=8, tokens=16, heads=3, kv_heads=1, head_dim=5, documents=2, causal=causal, window=window)
    pairs = [(i, j) for i in range(8) for j in range(8) if i // 4 == j // 4 and (j <= i or not causal)]
    pairs = [(i, j) for i, j in pairs if window is None or abs(i - j) < window]
    assert (
        case.flops == 2 * 3 * len(pairs) * 2 * 2 * 5
    )  # sequences, heads, products of a multiplication and an addition


def test_without_a_gpu_only_the_quick_form_runs(tmp_path):
    with pytest.raises(EquimuError, match="no GPU"):
        gpu.main(["--out", str(tmp_path)])


def test_a_part_that_fails_does_not_end_the_others(tmp_path, monkeypatch, capsys):
    def fails(**options):
        yield {"case": "one", "failed": ""}
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(_correct, "measure", fails)
    monkeypatch.setattr(_attention, "QUICK", _attention.QUICK[:1])
    gpu.main(["--quick", "--out", str(tmp_path), "--parts", "correct", "attention"])
    (page,) = tmp_path.iterdir()
    assert "| correct | 1 | 1 |" in page.read_text() and "RuntimeError: out of memory |" in page.read_text()
    assert "| attention | 2 | 0 |" in capsys.readouterr().out


@pytest.mark.slow
def test_it_runs_to_its_end(tmp_path, capsys):
    gpu.main(["--quick", "--out", str(tmp_path), "--minutes", "60"])  # a busy machine takes long
    (page,) = tmp_path.iterdir()
    assert page.name.endswith(f"-{jax.devices()[0].device_kind}.md")
    lines = capsys.readouterr().out.splitlines()
    for part in gpu.PARTS:
        (end,) = [line for line in lines if line.startswith(f"| {part} |")]
        # torch is not a dependency: without it its row says so
        without_torch = part == "step" and "No module named 'torch'" in page.read_text()
        assert end.split(" | ")[2] == "0" or without_torch, page.read_text()
