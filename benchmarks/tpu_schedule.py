"""python -m benchmarks.tpu_schedule: our TPU kernels against splash by the TPU compiler's own schedule, without a TPU.

python -m benchmarks.tpu_schedule --markdown table.md --json table.json
python -m benchmarks.tpu_schedule --chips v6e --seqs 4096

Causal attention, head_dim 128, bfloat16. The kernels are compiled ahead of time for the chip (needs `jax[tpu]`), ours
inside a checked `jax.shard_map`, and the compiler dumps their final programs. A figure is, in thousands of bundles
for one query head,

    Σ over the sections of the program: bundles × how often the section is executed

and both sides are counted alike. A section is the body of a loop, or what a `pl.when` guards, as the dump has it; how often
it is executed follows from the grid, the causal mask and the block sizes: each step of the grid, also those that splash
skips, costs what no section guards; an inner loop is counted by its trips; what happens once for each key/value head is
shared by the query heads of its group. Splash's grid over causal blocks is not shrunk, as its own tables have it. The
programs depend on the length and the grouping only through such counts (but for a few scalar operations), so they are
compiled once, for the shortest length and the largest group. Splash is searched
over block sizes, and its backward pass over one fused kernel or two; the best for each length is shown.

What is not counted: stalls, the copies between memories, and what XLA does around the kernels (transposes,
`Σ dout ∘ out`, and for splash's fused backward kernel the sum of a part of dq for each block of keys).
"""

import dataclasses
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

_FOLDER = tempfile.TemporaryDirectory(prefix="tpu-schedule-")
os.environ.update(
    JAX_PLATFORMS="cpu",
    TPU_SKIP_MDS_QUERY="1",
    TPU_ACCELERATOR_TYPE="v5litepod-16",
    TPU_WORKER_HOSTNAMES="localhost",
    ALLOW_MULTIPLE_LIBTPU_LOAD="1",
    LIBTPU_INIT_ARGS=f"--xla_jf_dump_to={_FOLDER.name} --xla_jf_dump_llo_text=true",
)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import tyro  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash_kernel  # noqa: E402
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

from benchmarks import _schedule  # noqa: E402
from equimu.attention import Blocks, Visibility, pallas_tpu  # noqa: E402

HEAD_DIM = 128
HEADS = 8
TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
OURS = ((1024, 512),)  # of queries and of keys
# Of queries, of keys, and of the keys that are computed at a time.
SPLASH = ((512, 512, 512), (1024, 512, 512), (1024, 1024, 512), (512, 1024, 512))
FUSED = (True, True, True, False)
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Compares our TPU kernels with splash by the compiler's schedule."""

    chips: tuple[Literal["v4", "v5e", "v5p", "v6e"], ...] = ("v5e", "v6e")
    """what to compile for"""
    seqs: tuple[int, ...] = (2048, 4096, 8192)
    """positions of the sequence"""
    groups: tuple[int, ...] = (1, 8)
    """query heads to a key/value head"""
    json: pathlib.Path | None = None
    """write the rows to this file"""
    markdown: pathlib.Path | None = None
    """write the table to this file"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """Compiled kernels of one pass, and what they cost."""

    label: str
    programs: tuple[_schedule.Program, ...]
    executions: tuple[Callable[[int, int], Sequence[float]], ...]  # (seq, group) -> of the step and of each section

    def bundles(self, seq: int, group: int) -> float:
        """Bundles for a query head."""
        return self._sum(seq, group, lambda section: section.bundles)

    def busy(self, seq: int, group: int) -> float:
        """The share of the matrix units' slots that is taken."""
        slots = self.programs[0].capacity["MXU"]
        return self._sum(seq, group, lambda section: section.busy["MXU"]) / (slots * self.bundles(seq, group))

    def _sum(self, seq: int, group: int, figure: Callable[[_schedule.Section], float]) -> float:
        total = 0.0
        for program, executions in zip(self.programs, self.executions, strict=True):
            sections = (program.step, *program.sections)
            total += sum(n * figure(part) for part, n in zip(sections, executions(seq, group), strict=True))
        return total


def main(config: Config) -> None:
    """Compiles, counts and prints the table."""
    rows: list[Row] = []
    for chip in config.chips:
        rows += compare(chip, config.groups, config.seqs)
    text = f"`python -m benchmarks.tpu_schedule`, jax {jax.__version__}\n\n{table(rows)}"
    print(text)
    if config.markdown is not None:
        config.markdown.write_text(text + "\n")
    if config.json is not None:
        config.json.write_text(json.dumps(rows, indent=1))


def compare(chip: str, groups: Sequence[int], seqs: Sequence[int]) -> Iterator[Row]:
    """A row for each pass, grouping and length: ours and splash, each at its best block sizes."""
    mesh, shortest, group = _mesh(chip), min(seqs), max(groups)
    ours = [_ours(mesh, shortest, group, sizes) for sizes in OURS]
    theirs = [_splash(mesh, shortest, group, sizes, fused) for sizes, fused in zip(SPLASH, FUSED, strict=True)]
    for number, name in enumerate(("forward", "backward")):
        for group, seq in itertools.product(groups, seqs):
            ours_best, splash_best = (
                min((passes[number] for passes in side), key=lambda candidate: candidate.bundles(seq, group))
                for side in (ours, theirs)
            )
            mine, other = ours_best.bundles(seq, group), splash_best.bundles(seq, group)
            yield {
                "chip": chip,
                "heads:kv": f"{HEADS}:{HEADS // group}",
                "pass": name,
                "seq": seq,
                "ours kbundles": mine / 1e3,
                "splash kbundles": other / 1e3,
                "ours/splash": mine / other,
                "ours MXU": ours_best.busy(seq, group),
                "splash MXU": splash_best.busy(seq, group),
                "ours blocks": ours_best.label,
                "splash blocks": splash_best.label,
                f"ours VMEM MiB at {shortest}": sum(program.vmem for program in ours_best.programs) / 2**20,
                f"splash VMEM MiB at {shortest}": max(program.vmem for program in splash_best.programs) / 2**20,
            }


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row[column]) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ours(mesh: jax.sharding.Mesh, seq: int, group: int, sizes: tuple[int, int]) -> tuple[Candidate, Candidate]:
    """Our forward and backward kernel, inside a checked shard_map; backward in blocks of half as many queries."""
    block_q, block_k = sizes
    strip = 256
    forward = Blocks(block_q=block_q, block_k=block_k, strip=strip, chunk=seq)
    backward = Blocks(block_q=block_q // 2, block_k=block_k, strip=strip, chunk=seq)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return pallas_tpu(
            q,
            k,
            v,
            scale=HEAD_DIM**-0.5,
            q_offset=0,
            q_segments=None,
            k_segments=None,
            visibility=Visibility(causal=True, window=None),
            blocks=(forward, backward),
        )

    spec = PartitionSpec("data")
    attend = jax.shard_map(attend, mesh=mesh, in_specs=(spec, spec, spec), out_specs=spec)
    _compile(mesh, attend, (seq, HEADS, HEAD_DIM), (seq, HEADS // group, HEAD_DIM))

    def forward_counts(seq: int, group: int) -> list[float]:
        steps = seq // block_q
        tiles = sum(i * block_q // block_k for i in range(steps))
        # The square on the diagonal; where there are tiles, the first's scores and the last's weights; the loop.
        return [steps, steps, steps, steps - 1, tiles - (steps - 1)]

    def backward_counts(seq: int, group: int) -> list[float]:
        steps = seq // backward.block_q
        tiles = sum(i * backward.block_q // block_k for i in range(steps))
        # The keys' start; the square; the loop; the keys' end.
        return [steps, steps, 1 / group, steps, tiles, 1 / group]

    programs = [
        _schedule.read(pathlib.Path(_FOLDER.name), f"equimu_attention_{name}") for name in ("forward", "backward")
    ]
    counts = (forward_counts, backward_counts)
    labels = (f"{block_q}×{block_k}", f"{block_q // 2}×{block_k}")
    one, two = (
        Candidate(label=label, programs=(program,), executions=(count,))
        for label, program, count in zip(labels, programs, counts, strict=True)
    )
    return one, two


def _splash(
    mesh: jax.sharding.Mesh, seq: int, group: int, sizes: tuple[int, int, int], fused: bool
) -> tuple[Candidate, Candidate]:
    """Splash's forward kernel, and its backward kernel or kernels."""
    block_q, block_k, compute = sizes
    mask = splash_mask.MultiHeadMask([splash_mask.CausalMask((seq, seq))] * HEADS)
    kernel = splash_kernel.make_splash_mha(
        mask,
        head_shards=1,
        q_seq_shards=1,
        block_sizes=splash_kernel.BlockSizes(
            block_q=block_q,
            block_kv=block_k,
            block_kv_compute=compute,
            block_q_dkv=block_q,
            block_kv_dkv=block_k,
            block_kv_dkv_compute=compute,
            block_q_dq=None if fused else block_q,
            block_kv_dq=None if fused else block_k,
            use_fused_bwd_kernel=fused,
        ),
    )
    _compile(mesh, jax.vmap(kernel), (HEADS, seq, HEAD_DIM), (HEADS // group, seq, HEAD_DIM))

    def counts(seq: int, once: float) -> list[float]:
        """The step, in it all but the pipeline's own rounds, and there start, tile and end."""
        blocks_q, blocks_k = seq // block_q, seq // block_k
        return [blocks_q * blocks_k] * 2 + [once, _seen(blocks_q, blocks_k), once]

    def by_queries(seq: int, group: int) -> list[float]:
        return counts(seq, seq // block_q)

    def by_keys(seq: int, group: int) -> list[float]:
        return counts(seq, seq // block_k / group)

    folder = pathlib.Path(_FOLDER.name)
    label = f"{block_q}×{block_k} by {compute}"
    forward = Candidate(label=label, programs=(_schedule.read(folder, "_fwd_"),), executions=(by_queries,))
    if fused:
        backward = Candidate(
            label=f"{label}, fused", programs=(_schedule.read(folder, "_dkv_"),), executions=(by_keys,)
        )
    else:
        programs = _schedule.read(folder, "_dkv_"), _schedule.read(folder, "_dq_")
        backward = Candidate(label=f"{label}, two", programs=programs, executions=(by_keys, by_queries))
    return forward, backward


def _seen(blocks_q: int, blocks_k: int) -> int:
    """Blocks of a causal square that hold any key that is seen."""
    ends = np.arange(1, blocks_q + 1) / blocks_q
    return int(np.sum(np.arange(blocks_k) / blocks_k < ends[:, None]))


def _mesh(chip: str) -> jax.sharding.Mesh:
    """One device of the chip, which need not be here."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGIES[chip]).devices
    return jax.sharding.Mesh(np.array(devices[:1]), ("data",), axis_types=(AxisType.Auto,))


def _compile(mesh: jax.sharding.Mesh, attend: Any, q_shape: tuple[int, ...], k_shape: tuple[int, ...]) -> None:
    """Compiles forward and backward for so many sequences that no operand stays in the fast memory between kernels."""
    for path in pathlib.Path(_FOLDER.name).iterdir():
        path.unlink()
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    q, k = (jax.ShapeDtypeStruct((64, *shape), jnp.bfloat16, sharding=sharding) for shape in (q_shape, k_shape))

    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.sum(attend(q, k, v).astype(jnp.float32))

    jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(q, k, k).compile()


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
