"""`equimu import`."""

import dataclasses
import json
import shlex
import sys

from equimu._errors import EquimuError
from equimu._values import PathLike
from equimu.cli._command import Command, Place
from equimu.exchange import run_from_llama
from equimu.files import expanded, write_files
from equimu.runs import config_to_dict
from equimu.tasks import LanguageModel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Import(Command):
    """The flags of `equimu import`."""

    folder: Place
    """Of a Llama: config.json, and safetensors files."""
    out: PathLike
    """The config file to write, for equimu train --config."""

    def __call__(self) -> None:
        """Writes the file and prints what to call."""
        path = expanded(self.out, "--out")
        if path.suffix != ".json":
            raise EquimuError(f"--out must be a JSON file, got {self.out}; write {path.name or 'llama'}.json")
        if path.exists() or path.is_symlink():
            raise EquimuError(f"{path} is there already; choose another --out, or move it away")
        config = run_from_llama(self.folder)
        content = json.dumps(config_to_dict(config), indent=1).encode() + b"\n"
        (written,) = write_files(path.parent, {path.name: content})
        assert isinstance(config.task, LanguageModel)
        print(
            f"equimu: it fine-tunes: learning rate {config.optimizer.learning_rate:.2g}, {config.steps} steps, rows of "
            f"{config.task.text.seq};\nequimu: change them by flags, and give --text.corpus",
            file=sys.stderr,
        )
        print(f"equimu train --config {shlex.quote(str(written))}")
