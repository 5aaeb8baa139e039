"""Eight CPU devices for the meshes, and every annotation of the package checked at run time."""

import functools
import inspect
import json
import os
import signal
from pathlib import Path

# The tests are on the CPU. With libtpu installed, JAX would look for a TPU first, and complain that there is none.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# JAX's plugin for CUDA, which compiles for GPUs that are not there, would complain of libraries that are not, and time kernels.
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)

from annotations import check_annotations  # noqa: E402

check_annotations("equimu")

assert jax.device_count() == 8, f"the tests need 8 CPU devices, found {jax.device_count()}"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Token stores of the tests go to a folder of the tests, not to the user's; programs that several tests compile, too."""
    os.environ["EQUIMU_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("programs")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """An interrupt arrives, here and in processes that a test starts, though a shell starts what runs behind it with none."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Each file gives its compiled programs back: a process may map so many pieces of memory, and then the compiler crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def registries():
    """What a test registers, and what a page of the documentation does, is gone after it."""
    from equimu.attention import _backends
    from equimu.declarations import _axes
    from equimu.optim import _config, _schedule
    from equimu.parameterization import _registry as parameterizations
    from equimu.plans.machines import _registry as machines
    from equimu.runs import _logger

    named = (_backends, _config, _schedule, parameterizations, machines, _logger)
    tables = [module._REGISTERED for module in named] + [_axes._REGISTRY, _axes._BRANCH_ENDS, _axes._NORMALISED]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="session")
def corpus() -> str:
    """A few files of real text: the sources of the standard library's json package."""
    return str(Path(json.__file__).parent / "*.py")


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch):
    """Trouble with storage is tried again at once."""
    from equimu.storage import _damage

    monkeypatch.setattr(_damage, "WAITS", (0.0, 0.0))


@pytest.fixture(scope="module")
def light_compilation(programs: None):
    """For files that compile much and compute little: the compiler leaves its costly passes out."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def traced_once():
    """For files of many tables: tracing a model does not depend on the table, so each is traced once for all of them."""
    from equimu.parameterization import _array_rules, _sizes, _starts, _trace, _tree
    from equimu.parameterization._second_uses import with_second_uses

    blueprints, starts = functools.cache(_trace.Blueprints), functools.cache(_starts.starts)

    @functools.cache
    def measured(known, base, target):
        return _sizes.measure(lambda sizes: with_second_uses(known(sizes).shapes()), dict(base), dict(target))

    def measure(shapes_at, base, target):
        known = inspect.getclosurevars(shapes_at).nonlocals["blueprints"]
        return measured(known, (*base.items(),), (*target.items(),))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tree, "Blueprints", blueprints)
        patch.setattr(_array_rules, "starts", starts)
        patch.setattr(_array_rules, "measure", measure)
        yield


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch):
    """The sets of programs that sweeps make."""
    from equimu.sweeps import _runner
    from equimu.training import Programs

    sets: list[Programs] = []

    class Counted(Programs):
        def __init__(self, **given):
            super().__init__(**given)
            sets.append(self)

    monkeypatch.setattr(_runner, "Programs", Counted)
    return sets


@pytest.fixture(scope="module")
def nothing_kept():
    """No program is written to the cache: without its GPU, one cannot be read again."""
    before = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", before)
