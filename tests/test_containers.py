"""Blocks in any container, arrays that come and go, parts that grow in number: what counts as depth."""

import equinox as eqx
import jax
import pytest

from equimu import EquimuError, completep, mup, parameterize, register_residual, umup
from equimu.parameterization import rules_of

pytestmark = pytest.mark.usefixtures("light_compilation")


class Block(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width, *, key):
        self.up = eqx.nn.Linear(width, 2 * width, key=key)
        self.down = eqx.nn.Linear(2 * width, width, key=key)

    def __call__(self, x):
        return x + self.down(jax.nn.relu(self.up(x)))


class Mixer(eqx.Module):
    weight: eqx.nn.Linear

    def __init__(self, width, *, key):
        self.weight = eqx.nn.Linear(width, width, key=key)


register_residual(Block, "down")
register_residual(Mixer, "weight")


def stacked(width, count, key):
    return eqx.filter_vmap(lambda k: Block(width, key=k))(jax.random.split(key, count))


CONTAINERS = {
    "list": lambda width, depth, key: [Block(width, key=key) for _ in range(depth)],
    "tuple": lambda width, depth, key: tuple(Block(width, key=key) for _ in range(depth)),
    "dictionary": lambda width, depth, key: {f"layer_{i}": Block(width, key=key) for i in range(depth)},
    "dictionary of other keys": lambda width, depth, key: {
        "abcdefghijkl"[i]: Block(width, key=key) for i in range(depth)
    },
    "stack": lambda width, depth, key: {"blocks": stacked(width, depth, key)},
    "nested": lambda width, depth, key: {"trunk": [{"inner": (Block(width, key=key),)} for _ in range(depth)]},
}


def rules(make, scheme, base, target):
    return {rule.path: rule for rule in rules_of(parameterize(make, scheme, base=base, target=target))}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_block_has_the_factor_of_its_depth_whatever_holds_it(container):
    found = rules(CONTAINERS[container], completep(), {"width": 8, "depth": 4}, {"width": 8, "depth": 12})
    ends = [rule for path, rule in found.items() if "down" in path]
    assert {rule.multiplier for rule in ends} == {4 / 12}
    assert {(rule.dimensions.depth, rule.dimensions.depth_ratio) for rule in found.values()} == {(12, 3)}


def test_depth_counts_blocks_and_not_what_the_size_is_called():
    def groups_of_three(groups, *, key):
        return [[Block(8, key=key) for _ in range(3)] for _ in range(groups)]

    def groups_times_blocks(groups, blocks, *, key):
        return [[Block(8, key=key) for _ in range(blocks)] for _ in range(groups)]

    def two_more_than_said(depth, *, key):
        return [Block(8, key=key) for _ in range(depth + 2)]

    for make, base, target, blocks, ratio in (
        (groups_of_three, {"groups": 2}, {"groups": 4}, 12, 2),
        (groups_times_blocks, {"groups": 2, "blocks": 1}, {"groups": 4, "blocks": 3}, 12, 6),
        (two_more_than_said, {"depth": 2}, {"depth": 6}, 8, 2),
    ):
        found = rules(make, umup(), base, target)
        assert {(r.dimensions.depth, r.dimensions.depth_ratio) for r in found.values()} == {(blocks, ratio)}, make
        # u-μP: a branch × depth^-1/2
        ends = [rule.multiplier for path, rule in found.items() if path.endswith("down.weight")]
        assert ends == pytest.approx([blocks**-0.5] * blocks)


def test_kinds_of_blocks_in_one_stack_count_together_and_two_stacks_apart():
    def mixed(pairs, *, key):
        return [kind(8, key=key) for _ in range(pairs) for kind in (Block, Mixer)]

    found = rules(mixed, completep(), {"pairs": 1}, {"pairs": 3})
    assert {(r.dimensions.depth, r.dimensions.depth_ratio) for r in found.values()} == {(6, 3)}

    def two(encoders, decoders, *, key):
        return {
            "encoder": [Block(8, key=key) for _ in range(encoders)],
            "decoder": {"blocks": stacked(8, decoders, key)},
        }

    found = rules(two, completep(), {"encoders": 2, "decoders": 3}, {"encoders": 4, "decoders": 12})
    counts = {path.split("'")[1]: (r.dimensions.depth, r.dimensions.depth_ratio) for path, r in found.items()}
    assert counts == {"encoder": (4, 2), "decoder": (12, 4)}


def test_a_stack_of_plain_maps_needs_no_rule_of_depth():
    def plain(depth, *, key):
        return eqx.nn.Sequential([eqx.nn.Linear(8, 8, key=key) for _ in range(depth)])

    found = rules(plain, completep(), {"depth": 2}, {"depth": 4})
    assert {(rule.multiplier, rule.lr) for rule in found.values()} == {(1.0, 1.0)}

    class Tower(eqx.Module):
        maps: list

        def __init__(self, depth, *, key):
            self.maps = [eqx.nn.Linear(8, 8, key=key) for _ in range(depth)]

    with pytest.raises(EquimuError, match=r"no residual branch.*register_residual\(MyStack\)"):
        rules(Tower, completep(), {"depth": 2}, {"depth": 4})
    register_residual(Tower)
    assert {rule.lr for rule in rules(Tower, completep(), {"depth": 2}, {"depth": 4}).values()} == {1.0}


class Experts(eqx.Module):
    router: eqx.nn.Linear
    experts: list

    def __init__(self, width, *, key, out=None):
        self.router = eqx.nn.Linear(width, width // 8, key=key)
        self.experts = [eqx.nn.Linear(width, out or width, key=key) for _ in range(width // 8)]


def test_experts_that_grow_in_number_with_the_width_have_the_rules_of_one():
    found = rules(Experts, mup(), {"width": 16}, {"width": 64})
    experts = [rule for path, rule in found.items() if path.startswith("experts") and path.endswith("weight")]
    assert len(experts) == 8 and {(rule.role, rule.lr, rule.init_std) for rule in experts} == {("hidden", 1 / 4, 1 / 8)}
    assert {rule.dimensions.depth for rule in found.values()} == {1}


def test_parts_of_which_one_side_is_fixed_are_refused_with_what_to_write():
    with pytest.raises(EquimuError, match="one of several parts, of which there are more as width grows.*'in'.*'out'"):
        rules(lambda width, key: Experts(width, key=key, out=4), mup(), {"width": 16}, {"width": 64})


def test_shortcut_that_exists_at_one_width_only_is_named():
    class Residual(eqx.Module):
        conv: eqx.nn.Conv2d
        shortcut: eqx.nn.Conv2d | None

        def __init__(self, width, *, key):
            self.conv = eqx.nn.Conv2d(16, width, 3, key=key)
            self.shortcut = eqx.nn.Conv2d(16, width, 1, key=key) if width != 16 else None

    with pytest.raises(EquimuError, match=r"shortcut.weight .* exists at width=32 and not at width=16"):
        rules(Residual, mup(), {"width": 16}, {"width": 32})
