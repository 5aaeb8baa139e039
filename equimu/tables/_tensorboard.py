"""Folders of TensorBoard: the scalars of each run, and its hyperparameters, of `add_hparams` or of the folder's name."""

import importlib
import re
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from equimu._errors import EquimuError
from equimu._values import Real
from equimu.files import read_inside
from equimu.tables._row import Row

# Where the messages of event files are defined; torch's writer uses the second.
_EVENTS = ("tensorboardX.proto.event_pb2", "tensorboard.compat.proto.event_pb2")
_HPARAMS = ("tensorboardX.proto.plugin_hparams_pb2", "tensorboard.plugins.hparams.plugin_data_pb2")
_SESSION = "_hparams_/session_start_info"
# `width=64`, `width_64` or `width64`, between commas, underscores or other marks.
_NAMED = re.compile(r"([A-Za-z][A-Za-z_]*?)[=_:-]?([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=$|[^\w.]|_)", re.IGNORECASE)
_GIVEN = re.compile(r"([A-Za-z][A-Za-z_]*)=([^,;=\s]+?)(?=$|[,;\s]|_[A-Za-z_]+=)")


def tensorboard_rows(folder: Path, names: Iterable[str]) -> list[Row]:
    """A row for each folder with event files: the last value of each of its scalars.

    Args:
        folder: the root.
        names: the event files below it.
    """
    message = _message(_EVENTS, "Event")
    runs: dict[PurePosixPath, dict[str, Any]] = {}
    for name in names:
        run = PurePosixPath(name).parent
        values = runs.setdefault(run, {"folder": str(run)} | named(str(run)))
        for record in _records(read_inside(folder, name)):
            try:
                event = message.FromString(record)
            except Exception:  # of protobuf, whose classes are others from one implementation to the next
                raise EquimuError(f"{folder / name} is not an event file of TensorBoard; remove it") from None
            for scalar in event.summary.value:
                if scalar.tag == _SESSION:
                    values |= _hparams(scalar.metadata.plugin_data.content)
                elif (number := _number(scalar)) is not None:
                    values[scalar.tag] = number
    return [Row(where=f"run {run}", values=values) for run, values in runs.items()]


def named(path: str) -> dict[str, str]:
    """The hyperparameters that a folder is named by: `width=64,lr=0.01`, `width64_lr0.01`, `width_64/lr_0.01`."""
    found: dict[str, str] = {}
    for part in path.split("/"):
        pairs = _GIVEN.findall(part) if "=" in part else _NAMED.findall(part)
        found |= {name.strip("_"): value for name, value in pairs}
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file: length, its checksum, content, its checksum. The last one may be cut short by a kill."""
    at = 0
    while at + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        if at + 16 + length > len(content):
            return
        yield content[at + 12 : at + 12 + length]
        at += 16 + length


def _number(scalar: Any) -> Real | None:
    """The value of a scalar, which newer writers store as a tensor; None of anything else."""
    if scalar.WhichOneof("value") == "simple_value":
        return float(scalar.simple_value)
    if scalar.WhichOneof("value") != "tensor" or scalar.tensor.tensor_shape.dim:
        return None
    tensor = scalar.tensor
    if len(tensor.tensor_content) == 4:
        return float(struct.unpack("<f", tensor.tensor_content)[0])
    return next((float(value) for value in (*tensor.float_val, *tensor.double_val)), None)


def _hparams(content: bytes) -> dict[str, Any]:
    given = _message(_HPARAMS, "HParamsPluginData").FromString(content).session_start_info.hparams
    return {f"hparams.{name}": getattr(value, value.WhichOneof("kind")) for name, value in given.items()}


def _message(modules: Iterable[str], name: str) -> Any:
    for module in modules:
        try:
            return getattr(importlib.import_module(module), name)
        except ModuleNotFoundError:
            continue
    raise EquimuError(
        "event files of TensorBoard need tensorboardX or tensorboard, neither of which is installed: "
        "pip install 'equimu[tensorboard]', or give a table as CSV"
    )
