"""One training run, from its config to its folder."""

import contextlib
import functools
import json
import math
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn

import jax

from equimu._errors import EquimuError, Interrupted
from equimu._values import Count, check, check_function
from equimu.data import Data, ValidationBatches
from equimu.files import local_folder
from equimu.parameterization import to_json
from equimu.processes import (
    Consensus,
    StopVote,
    barrier,
    connect,
    handle_signals,
    is_process_zero,
    on_process_zero,
    report_failure,
)
from equimu.runs import (
    LlamaStart,
    LoggerFeed,
    Run,
    RunConfig,
    RunFolder,
    WarmStart,
    find_start,
    read_paused,
    read_run,
    run_config,
)
from equimu.tasks import Task
from equimu.training._bound_program import BoundProgram
from equimu.training._build import build_tree
from equimu.training._checkpoint_schedule import CheckpointSchedule, ResumePoint
from equimu.training._llama_start import weights_from_llama
from equimu.training._loss_record import LossRecord
from equimu.training._means import Means
from equimu.training._metrics import MetricsLog
from equimu.training._profile import Profile, check_profile
from equimu.training._program import Programs
from equimu.training._runtime import RuntimeConfig
from equimu.training._step import StepMetrics

OnRow = Callable[[Mapping[str, Any]], None]
OnBegin = Callable[[int], None]

# How long the other processes of a run wait to see the end of it on a network file system.
_SEEN_SECONDS = 60.0


def train(
    task: Task | RunConfig,
    size: Mapping[str, int] | None = None,
    *,
    out: str | Path,
    runtime: RuntimeConfig | None = None,
    on_row: OnRow | None = None,
    on_begin: OnBegin | None = None,
    programs: Programs | None = None,
    until: int | None = None,
    **fields: Any,
) -> Run:
    """Trains one model, goes on with a run that was interrupted, or reads the run if it was done before.

    A run goes on from its newest checkpoint that is valid, to the bits that it would have had on the same mesh. SIGINT and
    SIGTERM (in the main thread) end it after the step that runs, saved.

    Args:
        task: what is trained, or a whole `RunConfig`.
        size: of the model; see `RunConfig`.
        out: root of the run folders; the run's own folder is named by a hash of its config and data.
        runtime: how to carry it out: devices, processes, checkpoints, loggers.
        on_row: called with each row of metrics as it is written, on process 0.
        on_begin: called with the step after which training begins, on process 0: 0, or where a run that was interrupted goes
            on. Not called if the run was done before.
        programs: compiled programs that runs share which differ only in numbers; by default those of the
            last two runs of this process.
        until: a step after which the run is saved and left; trained again, it goes on from there. None for its end.
        fields: the other fields of `RunConfig`: `base`, `parameterization`, `optimizer`, `steps`, `seed`, ...

    Returns:
        The finished run; or the run up to `until`, with the status `"paused"`.

    Raises:
        EquimuError: whatever is wrong with the config, before anything is written; another process that owns the folder.
        NotFiniteError: a loss or gradient is not finite, under `on_nonfinite="stop"`.
        StorageError: the folder can no longer be written.
        Interrupted: a signal came; what there was is saved.

    Example:
        >>> train(NextByte(), {"width": 256}, base={"width": 64}, steps=500, out="runs")
    """
    config = run_config(task, size, fields)
    runtime = RuntimeConfig() if runtime is None else runtime
    check(RuntimeConfig, runtime=runtime)
    check(Count | None, until=until)
    if on_row is not None:
        check_function("on_row", on_row, "of a row of metrics")
    if on_begin is not None:
        check_function("on_begin", on_begin, "of a step")
    root = local_folder(out, "--out")
    connect(runtime)
    try:
        data = data_of(config.task)
        source = None if config.restore_from is None else find_start(config.restore_from)
        if source is not None and source.step > config.steps:
            raise EquimuError(f"restore_from is of step {source.step}, and the run has only steps={config.steps}")
        folder = RunFolder(root, config, data.fingerprint, source and source.identity)
        folder.check()
        if on_process_zero(lambda: folder.is_done or _is_left(folder.path, until)):
            on_process_zero(folder.check_source)
        else:
            on_row, on_begin = on_row or (lambda row: None), on_begin or (lambda step: None)
            _train(config, runtime, data, folder, source, on_row, on_begin, programs, until)
        return _read(folder.path, until)
    except Interrupted:
        raise  # at the same step in all processes
    except BaseException as error:
        report_failure(error)
        raise


@functools.lru_cache(maxsize=8)
def data_of(task: Task) -> Data:
    """The data of a task, opened or made once.

    Raises:
        EquimuError: the task's `data` raises it, or gives something else.
    """
    data = task.data()
    if not isinstance(data, Data):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise EquimuError(
            f"{type(task).__name__}.data gives an equimu.data.Data, e.g. equimu.data.arrays(x, y, rows=32); got a "
            f"{type(data).__name__}"
        )
    return data


@functools.lru_cache(maxsize=8)
def _validation(task: Task, batches: int | None) -> ValidationBatches:
    return data_of(task).validation(batches)


def _train(
    config: RunConfig,
    runtime: RuntimeConfig,
    data: Data,
    folder: RunFolder,
    source: WarmStart | LlamaStart | None,
    on_row: OnRow,
    on_begin: OnBegin,
    programs: Programs | None,
    until: int | None,
) -> None:
    check_profile(runtime.profile, config.steps)
    feed = LoggerFeed()
    on_process_zero(lambda: feed.add(runtime.loggers))
    # Everything that can be wrong shows in these lines, compilation included; only then is the folder made.
    weights = None
    if isinstance(source, LlamaStart):
        weights = weights_from_llama(build_tree(config, data.rows), source.checkpoint)
    bound = BoundProgram(config, runtime, data, programs)
    validation = _validation(config.task, config.validation_batches)
    rules = to_json(bound.tree)
    saving = CheckpointSchedule(folder.path, runtime, bound.program, {**folder.identity, "rules": json.loads(rules)})

    profile = Profile(runtime.profile if is_process_zero() else None, folder.path)

    def log(row: Mapping[str, Any]) -> None:
        if is_process_zero():
            folder.append(row)
            on_row(row)
            feed.row(row)

    with _owning(folder), contextlib.closing(saving), feed, profile, bound, handle_signals() as stop:
        if on_process_zero(lambda: folder.is_done):
            return
        begun = saving.restore()
        own, mark = (0, None) if begun is None else (begun.step, begun.rows)
        if begun is None and isinstance(source, WarmStart):
            begun = saving.begin_from(source)
        on_process_zero(lambda: folder.start(rules, own, mark))
        if begun is None:
            begun = ResumePoint(bound.init() if weights is None else bound.begin_with(weights), 0, LossRecord())
        state, first = begun.leaves, begun.step
        if is_process_zero():
            on_begin(first)
        metrics_log = MetricsLog(
            config, data, bound.tree, begun.record, first, log, saving.resume_point, bound.peak_steps_per_second
        )
        agreed = Consensus(bound.mesh, lambda: StopVote(stop.signum, saving.is_time()))
        batches = bound.batches(first)
        feed.begin(folder.identity, folder.path, first)
        barrier("start")  # a collective that one process enters half a minute late may fail

        def end(status: Literal["finished", "diverged"], step: int) -> None:
            saving.finish()
            on_process_zero(lambda: folder.finish(status, step))
            feed.end(status)

        def save(step: int) -> None:
            on_process_zero(lambda: folder.sync(step))
            saving.save(step, state, metrics_log.record, folder.mark)

        def leave(step: int) -> None:
            saving.finish()
            on_process_zero(lambda: folder.pause(step))
            feed.end("paused")

        if until is not None and until <= first < config.steps:
            leave(first)
            return
        for step in range(first + 1, config.steps + 1):
            wish = agreed(step)
            leaves = step == until and step < config.steps
            saves = wish.save or wish.signum != 0 or leaves or saving.is_due(step)
            logs = step % config.log_every == 0 or step in (1, config.steps)
            batch = next(batches)
            profile.before(step)
            state, metrics = bound.step(state, batch, logs or saves)
            profile.after(step, metrics)
            if not metrics_log.add(step, metrics, logs=logs, at_once=logs or saves):
                end("diverged", step)
                return
            if saves and _is_sound(metrics):
                save(step)
            if wish.signum:
                _stop(wish.signum, f"after step {step} of {config.steps}", saving)
            if leaves:
                leave(step)
                return
        sums = Means()
        for number in range(len(validation)):
            sums.add(bound.evaluate(state, validation, number))
            if signum := agreed(config.steps + 1 + number).signum:
                save(config.steps)
                _stop(signum, "in the validation", saving)
        means = sums.values()
        loss = means.pop("loss")
        row = {"step": config.steps, data.unit: config.steps * data.rows * data.units_per_row, "validation_loss": loss}
        log(row | ({"validation_metrics": means} if means else {}))
        if saving.saves_final and math.isfinite(loss):
            save(config.steps)
        end("finished" if math.isfinite(loss) else "diverged", config.steps)


def compile_ahead(config: RunConfig, *, out: str | Path, runtime: RuntimeConfig, programs: Programs) -> None:
    """Compiles the program of a run that `train` is to be given with the same programs, unless the run is done.

    Args:
        config: the run, which begins with fresh weights.
        out, runtime, programs: as of `train`.

    Raises:
        EquimuError: as `train`.
    """
    data = data_of(config.task)
    if not RunFolder(local_folder(out, "--out"), config, data.fingerprint).is_done:
        BoundProgram(config, runtime, data, programs)


def _stop(signum: int, where: str, saving: CheckpointSchedule) -> NoReturn:
    raise Interrupted(signum, f"stopped {where}; {saving.resume_point()}, and the same command goes on")


def _is_sound(metrics: StepMetrics) -> bool:
    """Whether the state after a measured step may be saved: everything in it is finite."""
    return metrics.updates is not None or (math.isfinite(metrics.grad_norm) and math.isfinite(metrics.update_rms))


@contextlib.contextmanager
def _owning(folder: RunFolder) -> Generator[None, None, None]:
    """The folder, owned by the first process for all."""
    with contextlib.ExitStack() as owned:
        on_process_zero(lambda: owned.enter_context(folder.owned()))
        yield


def _is_left(folder: Path, until: int | None) -> bool:
    return until is not None and read_paused(folder, until) is not None


def _read(folder: Path, until: int | None) -> Run:
    """The run that just ended, or was left. The first process wrote it; the others may see that later."""
    barrier("end")
    seen_by = time.monotonic() + _SEEN_SECONDS
    while (run := read_run(folder) or (until and read_paused(folder, until)) or None) is None:
        if is_process_zero() or time.monotonic() > seen_by:
            raise EquimuError(
                f"process {jax.process_index()} does not see {folder}; give --out on a file system that all share"
            )
        time.sleep(0.5)
    return run
