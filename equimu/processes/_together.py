"""What the processes of a run do together on a checkpoint: work, tell each other how it went, go on as one."""

import collections
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax

from equimu._errors import EquimuError
from equimu.processes._service import service

# A process that dies is found out by JAX's heartbeat, long before this; it bounds a disk that hangs.
_TIMEOUT_MS = 3_600_000

_rounds: collections.Counter[str] = collections.Counter()
_rounds_lock = threading.Lock()


class Hosts:
    """The processes of a run.

    They meet at the coordination service of `jax.distributed`, not in a collective of the devices: a save goes on in a thread,
    and would mix up with the collectives of training.

    Args:
        name: of what they work on, the same on all of them.
        errors: whose messages are passed on as they are, and raised as these classes in all processes.

    Attributes:
        index: of this process.
        count: of all.
    """

    def __init__(self, name: str, errors: Sequence[type[Exception]] = (EquimuError,)):
        self._name = name
        self._errors = {error.__name__: error for error in errors}
        self.index: int = jax.process_index()
        self.count: int = jax.process_count()

    def together(self, what: str, work: Callable[[], Any]) -> list[Any]:
        """Does the work on every process, waits for all, and returns what each made of it, as plain JSON types.

        Raises:
            EquimuError: some process raised it, or one of the `errors`; then all do.
        """
        if self.count == 1:
            return [work()]
        raised: BaseException | None = None
        try:
            answer = {"kind": "done", "value": work()}
        except tuple(self._errors.values()) as error:
            answer = {"kind": type(error).__name__, "value": str(error)}
        except BaseException as error:  # the others must not wait for this process
            raised, answer = error, {"kind": "EquimuError", "value": f"{type(error).__name__}: {error}"}
        answers = self._exchange(what, answer)
        if raised is not None:
            raise raised
        for kind, cls in self._errors.items():
            for index, one in enumerate(answers):
                if one["kind"] == kind:
                    raise cls(one["value"] if index == self.index else f"process {index}: {one['value']}")
        return [one["value"] for one in answers]

    def _exchange(self, what: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
        client = service()
        with _rounds_lock:
            name = f"equimu/{self._name}/{what}"
            _rounds[name] += 1
            name = f"{name}/{_rounds[name]}"
        client.key_value_set(f"{name}/{self.index}", json.dumps(answer))
        try:
            client.wait_at_barrier(name.replace("/", ":"), _TIMEOUT_MS)
            return [json.loads(client.blocking_key_value_get(f"{name}/{i}", _TIMEOUT_MS)) for i in range(self.count)]
        except jax.errors.JaxRuntimeError as error:
            raise EquimuError(f"the processes cannot meet to {what}: {' '.join(str(error).split())[:300]}") from None
