"""`equimu show`."""

import dataclasses
from typing import Annotated

from equimu._errors import EquimuError
from equimu._terminal import terminal_width, wrapped
from equimu.cli._command import Printing
from equimu.cli._flags import Flat
from equimu.optim import optimizer_name
from equimu.parameterization import table, to_json
from equimu.runs import RunConfig
from equimu.training import build_parameterization, build_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(Printing):
    """The flags of `equimu show`."""

    config_class = RunConfig

    config: Annotated[RunConfig, Flat] = RunConfig()
    markdown: bool = False
    """Print a table of Markdown."""

    def __call__(self) -> None:
        """Prints."""
        if self.json and self.markdown:
            raise EquimuError("--json and --markdown are two ways to print; give one of them")
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
