"""`equimu show`."""

import dataclasses
from typing import Annotated

import tyro

from equimu.cli._command import Command, check_format
from equimu.cli._flags import Flat
from equimu.optim import optimizer_name
from equimu.parameterization import table, to_json
from equimu.runs import RunConfig
from equimu.training import build_parameterization, build_tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Show(Command):
    """The flags of `equimu show`."""

    config_class = RunConfig

    config: Annotated[RunConfig, Flat] = RunConfig()
    format: Annotated[str, tyro.conf.arg(metavar="{text,markdown,json}")] = "text"

    def __call__(self) -> None:
        """Prints."""
        check_format(self.format, "text", "markdown", "json")
        config = self.config
        uses_rows = config.base_rows is not None or config.base_steps is not None
        tree = build_tree(config, config.task.data().rows if uses_rows else 1)
        if self.format == "json":
            print(to_json(tree))
            return
        name = build_parameterization(config).name
        print(f"{name} with {optimizer_name(config.optimizer)}, {config.size} over base {config.base}\n")
        print(table(tree, markdown=self.format == "markdown"))
