"""What each part of the benchmark says in one line."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]


def _correct(rows: Rows) -> str:
    good = [row for row in rows if not row["failed"]]
    return f"{len(good)} of {len(rows)} cases right in every backend"


def _attention(rows: Rows) -> str:
    both = [row for row in rows if row.get("pass") == "forward+backward" and "auto" in row]
    if not both:
        return "nothing was measured"
    least = min(both, key=lambda row: row["auto/best"])
    parts = [f"auto has {least['auto/best']:.2f} of the best of ours or more (least: {least['case']})"]
    whole = {row["case"]: row["auto"] for row in both}
    for row in both:
        alone = row["case"].split(", ")
        if any("documents" in part for part in alone):
            seq, documents = int(alone[0].split(" × ")[1]), int(alone[2].split(" ")[0])
            equal = next(
                (x for case, x in whole.items() if case.split(", ")[0].endswith(f" × {seq // documents}")), None
            )
            parts += [] if equal is None else [f"packed {row['auto'] / equal:.2f} of unpacked ({row['case']})"]
    return "; ".join(parts)


def _step(rows: Rows) -> str:
    by_width: dict[int, dict[str, float]] = {}
    for row in rows:
        if "tokens/s" in row:
            by_width.setdefault(row["width"], {})[row["step"]] = row["tokens/s"]
    parts: list[str] = []
    for width, found in by_width.items():
        theirs = found.pop("torch.compile", None)
        if theirs and found:
            parts.append(f"width {width}: {max(found.values()) / theirs:.2f} × torch.compile")
    return "; ".join(parts) or "nothing to compare with"


def _sweep(rows: Rows) -> str:
    return "; ".join(f"{row['sweep']}: {row['seconds']:.0f} s" for row in rows)


SAYS: Mapping[str, Callable[[Rows], str]] = {
    "correct": _correct,
    "attention": _attention,
    "step": _step,
    "sweep": _sweep,
}
