"""`equimu import`."""

import dataclasses
import json
import shlex

from equimu._errors import EquimuError
from equimu._values import PathLike
from equimu.cli._command import Command, Place
from equimu.exchange import run_from_llama
from equimu.files import expanded, write_files
from equimu.runs import config_to_dict


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
        content = json.dumps(config_to_dict(run_from_llama(self.folder)), indent=1).encode()
        (written,) = write_files(path.parent, {path.name: content})
        print(f"equimu train --config {shlex.quote(str(written))}")
