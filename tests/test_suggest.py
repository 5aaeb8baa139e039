"""Cells that are suggested do what is said of them."""

import dataclasses

import numpy as np
import pytest
from test_joint_law import EXACT

from benchmarks.joint_law._grids import TARGET, draw, sweep
from equimu.cli._suggest import print_suggestions, target_of
from equimu.reports import joint_law, report, suggest
from equimu.sweeps import SweepConfig


def with_additions(truth, suggested):
    """The grid of a truth with the cells that were suggested."""
    more = [
        cell
        for each in suggested.additions
        for cell in sweep(truth, [tuple(each.sizes[name] for name in ("width", "steps", "rows"))], each.seeds)
    ]
    return sweep(truth) + more


@pytest.mark.long
def test_intervals_become_as_narrow_as_was_said():
    ratios: list[tuple[float, float]] = []
    for number in range(16):
        truth = draw("one seed", (21, number))
        suggested = suggest(joint_law(sweep(truth)), TARGET)
        after = joint_law(with_additions(truth, suggested)).at(**TARGET).plus_minus
        ratios.append((after / suggested.before, suggested.after / suggested.before))
    measured, said = np.median(ratios, axis=0)
    assert 0.4 <= said <= 0.55
    # Within 30 % of what was said.
    assert 0.7 <= measured / said <= 1.3


def test_suggestions_stay_below_the_target():
    suggested = suggest(joint_law(sweep(dataclasses.replace(EXACT, noise=0.02))), TARGET)
    assert suggested.additions and suggested.cells >= 5 * len(suggested.additions)
    assert suggested.halves == (suggested.after <= suggested.before / 2)
    for each in suggested.additions:
        assert each.sizes["width"] <= 256 and each.sizes["steps"] <= 2000 and each.sizes["rows"] <= 32
        assert len(each.points) >= 5 and len(set(each.seeds)) == len(each.seeds)
        # About the best rate there, a few tenths of an octave of error and a rounding to the grid aside.
        if each.sizes["steps"] == 2000:
            assert abs(np.median(each.points) - EXACT.best(each.sizes)) < 1


def test_command_line_of_a_suggestion(capsys):
    over = {"width": (32, 64, 128), "steps": (250, 1000), "rows": (8, 32)}
    config = SweepConfig(over=over, panels=("mup",), seeds=1)
    target = target_of(("width=512", "steps=4000", "rows=32"), config)
    assert target == TARGET
    print_suggestions(report(sweep(dataclasses.replace(EXACT, noise=0.02))), target, config, "runs/mine")
    first, *lines, last = capsys.readouterr().out.splitlines()
    commands = [line for line in lines if line.startswith("  ")]  # the first sentence may take several lines
    assert commands
    assert first.startswith("mup: at width 512, steps 4000, rows 32 the law predicts log2 LR -")
    assert last.endswith("equimu report runs/mine --over width steps rows")
    for command in commands:
        assert command.startswith("  equimu sweep --panels mup --over.width ") and " --base.width 32 " in command
    seeds = {command.partition("--seeds ")[2].partition(" --out")[0] for command in commands}
    assert all(text.isdigit() for text in seeds)


def test_suggesting_needs_to_know_the_noise():
    law = joint_law(sweep(EXACT))
    unknown = dataclasses.replace(law, fit=dataclasses.replace(law.fit, covariance=None))
    with pytest.raises(Exception, match="run three seeds first"):
        suggest(unknown, TARGET)
