"""What `benchmarks.throughput` says of attention: a table for a terminal, a line for each backend, a figure."""

import itertools
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]
_HEADER = ("seq, head_dim, dtype, heads", "pass", "backend", "ms", "±", "{unit}", "peak", "× jax", "MB")
_SHORT = {"float32": "f32", "bfloat16": "bf16", "forward": "fwd", "forward+backward": "fwd+bwd"}
_MARKERS = "os^Dvx"


def headline(rows: Sequence[Row]) -> str:
    """The fastest matrix product of each dtype, to which shares of the peak refer."""
    peaks = _peaks(rows)
    unit, scale = _unit(peaks)
    texts = [f"{peak / scale:.3g} {unit} in {dtype}" for dtype, peak in peaks.items()]
    return (
        f"causal attention of one sequence; the peak is that of the fastest square matrix product: {', '.join(texts)}"
    )


def table_rows(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A header, and a row for each case, pass and backend; what is as in the row above is left empty."""
    peaks, found = _peaks(rows), list[tuple[str, ...]]()
    unit, scale = _unit(peaks)
    for before, row in itertools.pairwise([{}, *rows]):
        seq, head_dim, dtype, heads, kv_heads = row["case"].split()
        same_case = before.get("case") == row["case"]
        found.append(
            (
                "" if same_case else f"{seq}, {head_dim}, {_SHORT[dtype]}, {heads}/{kv_heads}",
                "" if same_case and before["pass"] == row["pass"] else _SHORT[row["pass"]],
                row["backend"] + row["auto"],
                f"{row['ms']:.3g}",
                f"{row['spread']:.0%}",
                f"{row['gflops'] / scale:.3g}",
                f"{row['gflops'] / peaks[dtype]:.0%}",
                "" if row["speedup"] is None else f"{row['speedup']:.2f}",
                f"{row['temporary_mb']:.3g}",
            )
        )
    return tuple(name.format(unit=unit) for name in _HEADER), found


def summaries(rows: Sequence[Row]) -> list[str]:
    """A line for each backend but `jax.nn`'s: how many times as fast it is, and its share of the peak."""
    peaks, lines = _peaks(rows), list[str]()
    for backend in dict.fromkeys(row["backend"] for row in rows):
        own = [row for row in rows if row["backend"] == backend]
        shares = [row["gflops"] / peaks[row["case"].split()[2]] for row in own]
        texts = [
            f"{_range([row['speedup'] for row in own if row['pass'] == name], '{:.1f}')} × jax.nn {name}"
            for name in ("forward", "forward+backward")
            if backend != "jax" and all(row["speedup"] is not None for row in own)
        ]
        texts.append(f"{_range(shares, '{:.0%}')} of the peak")
        lines.append(f"{backend}: {', '.join(texts)}")
    chosen = Counter(row["backend"] for row in rows if row["auto"])
    return [*lines, f'* is what backend="auto" takes: {", ".join(chosen)}']


def figure(rows: Sequence[Row], file: pathlib.Path, machine: str) -> None:
    """Useful operations a second over the length, of the kind of attention that has most lengths, a line for each backend."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    kinds = Counter(row["case"].split(" ", 1)[1] for row in rows)
    kind = kinds.most_common(1)[0][0]
    head_dim, dtype, heads, kv_heads = kind.split()
    unit, scale = _unit(peaks := _peaks(rows))
    shown = [row for row in rows if row["case"].split(" ", 1)[1] == kind]
    made = Figure(figsize=(9, 3.6), layout="constrained")
    axes = made.subplots(1, 2, sharey=True)
    for ax, name in zip(axes, ("forward", "forward+backward"), strict=True):
        for marker, backend in zip(
            itertools.cycle(_MARKERS), dict.fromkeys(row["backend"] for row in shown), strict=False
        ):
            own = [row for row in shown if row["backend"] == backend and row["pass"] == name]
            lengths = [int(row["case"].split()[0]) for row in own]
            ax.plot(lengths, [row["gflops"] / scale for row in own], marker=marker, label=backend)
        ax.axhline(peaks[dtype] / scale, color="0.4", linestyle="--", label="matrix product")
        ax.set(title=name, xlabel="positions", xscale="log")
        ax.set_xticks(sorted({int(row["case"].split()[0]) for row in shown}))
        ax.xaxis.set_major_formatter("{x:.0f}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.25)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"useful {unit}")
    axes[1].legend(frameon=False)
    made.suptitle(f"causal attention, {dtype}, {heads}/{kv_heads} heads × {head_dim}: {machine}", fontsize=8)
    made.savefig(file, dpi=120)


def _peaks(rows: Sequence[Row]) -> dict[str, float]:
    """GFLOP/s of the fastest matrix product of each dtype, in the whole run."""
    peaks: dict[str, float] = {}
    for row in rows:
        dtype = row["case"].split()[2]
        peaks[dtype] = max(peaks.get(dtype, 0.0), row["peak_gflops"])
    return peaks


def _unit(peaks: dict[str, float]) -> tuple[str, float]:
    """In which to write operations a second, and how many GFLOP/s it is."""
    return ("TFLOP/s", 1e3) if max(peaks.values()) >= 10e3 else ("GFLOP/s", 1.0)


def _range(values: Sequence[float], form: str) -> str:
    ends = list(dict.fromkeys(form.format(end) for end in (min(values), max(values))))
    return " to ".join(ends)
