"""The run that is killed, stopped and starved: a tiny model, a checkpoint every few steps."""

import json
from pathlib import Path

STEPS = 100
EVERY = 10


def corpus(folder: Path) -> Path:
    """A folder of text, made if it is not there."""
    text = folder / "text"
    if not text.exists():
        text.mkdir(parents=True)
        for number in range(40):
            (text / f"{number:02}.txt").write_text(f"document {number}: " + "a few words, again and again. " * 40)
    return text


_EXAMPLES = Path(__file__).parents[2] / "examples"
# What is trained: the decoder, a recurrent network, and one whose norms keep a state.
SUBJECTS = {
    "decoder": "--model.head-dim 8 --text.seq 16 --text.rows 4",
    "GRU": f"{_EXAMPLES / 'gru.py'}:NextByte --seq 16 --rows 4",
    "BatchNorm": f"{_EXAMPLES / 'classifier.py'}:Gratings --rows 8 --examples 256",
}


def arguments(
    folder: Path, out: Path, *, steps: int = STEPS, runtime: tuple[str, ...] = (), subject: str = "decoder"
) -> list[str]:
    """Of `equimu` for such a run, below `out`."""
    task = SUBJECTS[subject].split()
    corpus_of = ["--text.corpus", str(corpus(folder))] if subject == "decoder" else []
    flags = f"--size.width 16 --base.width 16 --steps {steps} --log-every 1 --validation-batches 1"
    saving = f"--runtime.checkpoint-every {EVERY} --runtime.save-final True"
    return ["train", *task, "--out", str(out), *corpus_of, *flags.split(), *saving.split(), *runtime]


def run_folder(out: Path) -> Path | None:
    """The folder of the one run below `out`."""
    folders = [path.parent for path in out.glob("*/config.json")]
    return folders[0] if folders else None


def committed(out: Path) -> list[int]:
    """The steps of its checkpoints."""
    found = out.glob("*/checkpoints/step-*")
    return sorted(int(path.name[5:]) for path in found if path.name[5:].isdigit())


def left_over(out: Path) -> list[str]:
    """What should not be there once a run is done."""
    patterns = ("*.tmp", "*.broken*", "*.__lock", "lock")
    return sorted(str(path.relative_to(out)) for pattern in patterns for path in out.rglob(pattern))


def content(out: Path, step: int, run: str = "*") -> dict[str, bytes]:
    """The bytes of all arrays of a checkpoint of the one run below `out`, or of one of them."""
    folder = next(iter(out.glob(f"{run}/checkpoints/step-{step}")))
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/c*"))}


def rows(out: Path) -> list[dict[str, object]]:
    """The metrics of the run, less what is a matter of time."""
    folder = run_folder(out)
    assert folder is not None
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.endswith("_per_second")} for row in found]
