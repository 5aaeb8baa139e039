"""`equimu show`."""

import dataclasses
from typing import Annotated

import tyro

from equimu._errors import EquimuError
from equimu._terminal import terminal_width, wrapped
from equimu.cli._command import Printing
from equimu.cli._flags import Flat
from equimu.cli._show_group import groups_to_json, print_groups, shown_groups
from equimu.optim import optimizer_name
from equimu.parameterization import table, to_json
from equimu.presets import PAPER, PREFIX
from equimu.runs import RunConfig
from equimu.training import build_parameterization, build_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(Printing):
    """The flags of `equimu show`."""

    config_class = RunConfig

    groups: tyro.conf.Positional[tuple[str, ...]] = ()
    """Instead of the rules of a config: groups of experiments of arXiv 2404.05728, such as lion, each with what it changes and
    what the paper says of it; all lists them."""
    scale: str | None = None
    """Of the groups: cpu, gpu or paper; by default as the paper has them."""
    config: Annotated[RunConfig, Flat] = RunConfig()
    markdown: bool = False
    """Print a table of Markdown."""

    def __call__(self) -> None:
        """Prints."""
        if self.json and self.markdown:
            raise EquimuError("--json and --markdown are two ways to print; give one of them")
        if self.groups:
            self._show_groups()
            return
        if self.scale is not None:
            raise EquimuError(f"--scale is of groups of the paper, e.g. equimu show lion --scale {self.scale}")
        config = self.config
        uses_rows = config.base_rows is not None or config.base_steps is not None
        tree = build_tree(config, config.task.data().rows if uses_rows else 1)
        if self.json:
            print(to_json(tree))
            return
        name = build_parameterization(config).name
        print(
            wrapped(f"{name} with {optimizer_name(config.optimizer)}, {config.size} over base {config.base}"),
            end="\n\n",
        )
        print(table(tree, markdown=self.markdown, width=terminal_width()))

    def _show_groups(self) -> None:
        names = shown_groups(self.groups)
        if self.markdown or self.config != RunConfig():
            raise EquimuError(
                f"groups are shown as the paper has them, and take --scale and --json alone; for the rules of a run of one, "
                f"write equimu show --config {PREFIX}{names[0]} and its flags"
            )
        scale = PAPER if self.scale is None else self.scale
        if self.json:
            print(groups_to_json(names, scale))
        else:
            print_groups(self.groups, scale)
