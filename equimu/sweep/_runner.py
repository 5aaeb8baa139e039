"""Running a grid: what is done is not done again, what diverges is recorded."""

from collections.abc import Callable
from pathlib import Path

from equimu.sweep._grid import SweepConfig, cells
from equimu.train import Run, RunConfig, build_tree, open_data, train

OnCell = Callable[[Run, int, int], None]


def sweep(config: SweepConfig, *, out: str | Path, on_cell: OnCell | None = None) -> list[Run]:
    """Trains every cell of the grid that is not done yet. Interrupted and called again, it goes on where it was.

    Args:
        config: the grid.
        out: root of the run folders.
        on_cell: called behind each cell with its run, its number from 1, and the number of cells.

    Returns:
        The finished runs, diverged ones among them.

    Raises:
        EquimuError: whatever is wrong with any cell, before the first is trained.
    """
    grid = list(cells(config))
    _check(grid)
    runs: list[Run] = []
    for number, cell in enumerate(grid, start=1):
        run = train(cell, out=out)
        runs.append(run)
        if on_cell is not None:
            on_cell(run, number, len(grid))
    return runs


def _check(grid: list[RunConfig]) -> None:
    """Builds the tree of each width and parameterization, which is where sizes are found not to fit."""
    store = open_data(grid[0].data)
    checked: set[object] = set()
    for cell in grid:
        what = (cell.model, cell.parameterization)
        if what not in checked:
            build_tree(cell, store.info.vocab_size)
            checked.add(what)
