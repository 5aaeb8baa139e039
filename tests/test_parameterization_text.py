"""Parameterizations as text and as JSON: what is written is what the functions make, and nothing else is ever called."""

import dataclasses
import functools
import itertools
import json
import time

import jax
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import equimu as mu
from equimu import EquimuError, Parameterization, Row
from equimu.parameterization import (
    DECAY_RULES,
    BaseConstants,
    Family,
    Law,
    canonical_text,
    depth,
    depth_ratio,
    fan_in,
    fan_out,
    parameterization_from_dict,
    parameterization_from_text,
    parameterization_names,
    parameterization_to_dict,
    register_parameterization,
    width_ratio,
)

FAMILIES = ("adam", "sign", "sgd", "adafactor", "muon")
# text -> the function with the same arguments, and the text's one spelling
BUILT_IN = {
    "sp": (mu.sp, "sp"),
    "ntk()": (mu.ntk, "ntk"),
    "mup": (mu.mup, "mup"),
    "mup(form=absolute)": (functools.partial(mu.mup, "absolute"), "mup(form=absolute)"),
    "mup('relative', eps=\"lr\")": (functools.partial(mu.mup, eps="lr"), "mup(eps=lr)"),
    "tpv(3)": (functools.partial(mu.tpv, 3), "tpv(table=3)"),
    "tpv(2**3)": (functools.partial(mu.tpv, 8), "tpv"),
    "tpv(9.0, form=absolute)": (functools.partial(mu.tpv, 9, form="absolute"), "tpv(table=9, form=absolute)"),
    "everett(sp)": (functools.partial(mu.everett, "sp"), "everett(sp)"),
    "everett(parameterization=ntk)": (functools.partial(mu.everett, "ntk"), "everett(ntk)"),
    "everett(alignment=none, parameterization=mup)": (
        functools.partial(mu.everett, "mup", "none"),
        "everett(mup, alignment=none)",
    ),
    "everett(mean-field, full)": (functools.partial(mu.everett, "mean-field"), "everett(mean-field)"),
    "mean-field": (mu.mean_field, "mean_field"),
    "spectral(relative)": (functools.partial(mu.spectral, "relative"), "spectral(form=relative)"),
    "depth-mup(eps=constant)": (functools.partial(mu.depth_mup, eps="constant"), "depth_mup(eps=constant)"),
    "completep(1/2)": (functools.partial(mu.completep, 0.5), "completep(alpha=0.5)"),
    "completep(alpha=1)": (mu.completep, "completep"),
    "completed-p(length_exponent=.3)": (
        functools.partial(mu.completed_p, length_exponent=0.3),
        "completed_p(length_exponent=0.3)",
    ),
    " umup ( residual = 2 )\n": (functools.partial(mu.umup, 2.0), "umup(residual=2)"),
}
# text -> the same operations on mup()
OPERATIONS = {
    "mup.tune(output, multiplier=4)": lambda t: t.tune("output", multiplier=4.0),
    "mup().tune('blocks.mlp', lr=2**-3, init_std=1e-5)": lambda t: t.tune("blocks.mlp", lr=0.125, init_std=1e-5),
    "mup.tune(blocks[0].maps['down'].weight, lr=3).tune(a-b, eps=2)": lambda t: t.tune(
        "blocks[0].maps['down'].weight", lr=3.0
    ).tune("a-b", eps=2.0),
    "mup.replace(output, init_std=fan_in**-0.5)": lambda t: t.replace("output", init_std=fan_in**-0.5),
    "mup.replace(hidden, lr=2*fan_in**(-1/3)/width_ratio, multiplier=-1)": lambda t: t.replace(
        "hidden", lr=2 * fan_in ** (-1 / 3) / width_ratio, multiplier=-1.0
    ),
    "mup.shift(hidden, 2*width_ratio**.5)": lambda t: t.shift("hidden", 2 * width_ratio**0.5),
    "mup.with_depth(0.5, depth=depth).with_eps(lr)": lambda t: t.with_depth(0.5, depth=depth).with_eps("lr"),
    "mup.with_depth(1, depth=depth_ratio)": lambda t: t.with_depth(1.0, depth=depth_ratio),
    "mup.with_plain_decay().with_start(constructor)": lambda t: t.with_plain_decay().with_start("constructor"),
}


def mine(
    power: float = 0.5, law: Law | float = 1.0, *, kind: object = "a", optimizer: Family = "adam"
) -> Parameterization:
    row = Row(lr=width_ratio**-power).times(init_std=law)
    return Parameterization(name=f"mine-{power:g}-{kind}", optimizer=optimizer, hidden=row)


@pytest.fixture(autouse=True, scope="module")
def registered():
    register_parameterization("my-own", mine)


def tables():
    """Every built-in table for every family and decay that it has, plain, tuned, and shifted."""
    for (text, (function, _)), optimizer, decay in itertools.product(BUILT_IN.items(), FAMILIES, DECAY_RULES):
        try:
            table = function(optimizer=optimizer, decay=decay)
        except EquimuError:
            continue
        yield text, optimizer, decay, table


def test_texts_are_the_tables_of_the_functions():
    found = list(tables())
    assert len(found) > 300
    for text, optimizer, decay, table in found:
        assert parameterization_from_text(text, optimizer=optimizer, decay=decay) == table, text
    for text, (function, _) in BUILT_IN.items():
        assert parameterization_from_text(text) == function(), text
    assert {canonical.partition("(")[0] for _, canonical in BUILT_IN.values()} | {"my_own"} == set(
        parameterization_names()
    )


@pytest.mark.parametrize("text", OPERATIONS)
def test_operations_are_those_of_the_table(text: str):
    for optimizer in FAMILIES:
        expected = OPERATIONS[text](mu.mup(optimizer=optimizer))
        assert parameterization_from_text(text, optimizer=optimizer) == expected
        assert parameterization_from_text(canonical_text(text), optimizer=optimizer) == expected


def test_what_is_written_of_the_run_stays():
    # The default of an argument that the run gives is another thing than its absence.
    assert canonical_text("mup(optimizer=adam, decay=independent)") == "mup(optimizer=adam, decay=independent)"
    assert parameterization_from_text("mup(optimizer=adam)", optimizer="sign").optimizer == "adam"
    assert parameterization_from_text("completep", decay="l2").decay == "l2"
    assert parameterization_from_text("completep").decay == "standard"


def test_canonical_text_is_one_for_equal_calls_only():
    for text, (_, canonical) in BUILT_IN.items():
        assert canonical_text(text) == canonical
        assert canonical_text(canonical) == canonical
    tables = {canonical_text(text): parameterization_from_text(text) for text in (*BUILT_IN, *OPERATIONS)}
    for (a, one), (b, other) in itertools.combinations(tables.items(), 2):
        assert a != b and one != other
    spellings = {
        "mup.tune(output, multiplier=4)": [
            "mup().tune('output',multiplier=4.0)", "mup(relative).tune(output, multiplier=8/2)"
        ],
        "mup.tune(output, init_std=2, lr=1e-5)": ["mup.tune(output, lr=0.00001, init_std=2)"],
        "mup.tune('a b', lr=1e16)": ['mup.tune("a b", lr=10**16)'],
        "mup.tune('None', lr=2)": ['mup.tune("None", lr=2)'],
        "mup.with_depth(0.5)": ["mup.with_depth(alpha=1/2, depth=depth_ratio**1)"],
        "mup.replace(output, lr=1/fan_in)": ["mup.replace(output, lr=fan_in**-1)", "mup.replace(output, lr=1*(1/fan_in))"],
        "mup.replace(output, lr=-2*fan_in**-0.5*fan_out**2)": ["mup.replace(output, lr=-(fan_out**2*2/fan_in**.5))"],
        "mup.replace(output, lr=3)": ["mup.replace(output, lr=3*fan_in/fan_in)"],
        "my_own(law=2*fan_in, kind=b)": ["my-own(0.5, 2*fan_in, kind='b')"],
        "my_own(kind=1)": ["my-own(kind=1.0)"],
    }  # fmt: skip
    for canonical, texts in spellings.items():
        for text in (canonical, *texts):
            assert canonical_text(text) == canonical
            assert parameterization_from_text(text) == parameterization_from_text(canonical)


def test_json_of_tables_is_exact():
    for _, _, _, table in tables():
        tuned = table.tune("blocks.mlp", lr=1 / 3).tune("output", multiplier=-4, eps=0)
        deep = table if table.branch.exponents else table.with_depth(0.7)
        shifted = deep.shift("hidden", 0.1 * fan_out ** (1 / 3)).with_start("constructor")
        for one in (table, tuned, shifted):
            assert parameterization_from_dict(json.loads(json.dumps(parameterization_to_dict(one)))) == one
    assert parameterization_from_dict({"name": "mine", "rows": {}}) == Parameterization(name="mine")
    with pytest.raises(EquimuError, match="'mup' has no rows of laws; .* the call that makes it, e.g. .*'mup'"):
        parameterization_from_dict({"name": "mup"})


def test_json_shows_laws_as_fractions():
    made = parameterization_to_dict(mu.mup().replace("output", lr=2 * fan_in**-0.5).tune("output", lr=0.5))
    assert made["rows"]["output"]["lr"] == {"coefficient": 2.0, "exponents": {"fan_in": "-1/2"}}
    assert made["constants"] == [{"where": "output", "lr": 0.5}] and made["branch"] == 1.0


WRONG_JSON = {
    '{"optimizer": "adam"}': "has a name",
    '{"name": 3}': "name must be str, got 3",
    '{"name": "a", "optimiser": "adam"}': "did you mean 'optimizer'",
    '{"name": "a", "optimizer": "adm"}': "did you mean 'adam'",
    '{"name": "a", "rows": {"hiden": {}}}': "did you mean 'hidden'",
    '{"name": "a", "rows": {"hidden": 3}}': "rows.hidden must be a dict",
    '{"name": "a", "rows": {"hidden": {"lrr": 3}}}': "did you mean 'lr'",
    '{"name": "a", "rows": {"hidden": {"lr": true}}}': "rows.hidden.lr must be float, got True",
    '{"name": "a", "rows": {"hidden": {"lr": NaN}}}': "rows.hidden.lr must be finite",
    '{"name": "a", "branch": {"exponent": {}}}': "did you mean 'exponents'",
    '{"name": "a", "branch": {"exponents": {"fanin": 1}}}': "did you mean 'fan_in'",
    '{"name": "a", "branch": {"exponents": {"fan_in": "1/0"}}}': 'must be a fraction such as "-1/2"',
    '{"name": "a", "branch": {"exponents": {"fan_in": "1e999999999"}}}': "must be a fraction",
    '{"name": "a", "branch": {"exponents": {"fan_in": 0.5}}}': "must be a fraction",
    '{"name": "a", "constants": {"where": "output"}}': "constants must be list",
    '{"name": "a", "constants": [{"lr": 2}]}': "constants must say where",
    '{"name": "a", "constants": [{"where": "o\\nu", "lr": "2"}]}': "lr of o\\nu must be float",
    '{"name": "a", "constants": [{"where": "output", "lr": -2}]}': "lr of output must be at least 0",
}


@pytest.mark.parametrize("text", WRONG_JSON)
def test_wrong_json_is_told_in_one_line(text: str):
    with pytest.raises(EquimuError) as refused:
        parameterization_from_dict(json.loads(text))
    assert WRONG_JSON[text] in str(refused.value) and "\n" not in str(refused.value)


def test_traced_constants_are_not_written():
    @jax.jit
    def write(factor: jax.Array) -> jax.Array:
        with pytest.raises(EquimuError, match="lr of output is traced"):
            parameterization_to_dict(mu.mup().tune("output", lr=factor))
        return factor

    write(1.0)


WRONG = {
    "mop": "did you mean 'mup'",
    "mup(from=absolute)": "is not a call",
    "mup(frm=absolute)": "did you mean 'form'",
    "sp(eps=lr)": "sp has no argument 'eps'",
    "mup(form=absolute": "'(' was never closed at character 4",
    "everett": "everett needs parameterization",
    "mup(relative, adam)": "mup takes only form without its name",
    "sp(adam)": "sp takes none without its name",
    "everett(mup, optimizer=muon)": "not for muon",
    "mup.tune": "is not a call",
    "mup.tunes(output, lr=2)": "did you mean 'tune'",
    "mup.tune(output, lrr=2)": "did you mean 'lr'",
    "mup.tune(output, lr=fan_in**2)": "computes with what is not a number; see fan_in at character 21",
    "mup.replace(output, lr=fan_inn**2)": "did you mean 'fan_in'",
    "mup.replace(output, lr=fan_in+1)": "no product of powers of sizes; see fan_in+1 at character 24",
    "mup.replace(output, lr=fan_in**1000)": "powers go to 100",
    "mup.replace(output, lr=(-fan_in)**0.5)": "a negative law has no power of 1/2",
    "mup.with_depth(0.5, depth=-1)": "a negative law has no power of -1/2",
    "mup.shift(output, 0*fan_in)": "positive factor",
    "mup.tune(output, lr=2**10**9)": "too large",
    "mup.tune(output, lr=9**9**9**9)": "too large",
    "mup.tune(output, lr=1e999)": "too large",
    "mup.tune(output, lr=" + "9" * 500 + ")": "too large",
    "mup.tune(output, lr=1/0)": "division by 0",
    "mup.tune(output, lr=1j)": "holds what is not a word",
    "mup.tune(output, lr=" + "-" * 500 + "1)": "too deep",
    "(" * 300: "is not a call",
    "mup.tune(" + "a." * 600 + "b, lr=1)": "at most 1000 characters",
    "mup(form=absolute, form=relative)": "form twice",
    "mup(*form)": "holds what is not a word",
    "mup(**form)": "unpacks",
    "mup\0": "cannot be printed",
    "": "is not a call",
    "3": "is not a call",
    "mup or sp": "is not a call",
    # what would do something, were it executed
    "__import__('os')": "'__import__' is unknown",
    "mup(form=open('x'))": "see open('x') at character 10",
    "mup.__class__": "is not a call",
    "mup.__class__()": "no operation '__class__'",
    "mup.with_eps.__globals__()": "no operation '__globals__'",
    "mup(__class__=3)": "no argument '__class__'",
    "mup.tune(__class__.a, lr=2)": "holds '__class__'",
    "mup.tune(a.__class__, lr=2)": "holds '__class__'",
    "mup.replace(role=output, self=3)": "'self'",
    "mup(form=[x for x in y])": "holds what is not a word",
    "mup(form=(x := 3))": "holds what is not a word",
    "mup(form=f'{open}')": "holds what is not a word",
    "mup.row(output)": "no operation 'row'",
    "print('x')": "'print' is unknown",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_text_is_told_in_one_line(text: str):
    with pytest.raises(EquimuError) as refused:
        parameterization_from_text(text)
    assert WRONG[text] in str(refused.value) and "\n" not in str(refused.value), refused.value
    assert len(str(refused.value)) < 400


CALLS = st.recursive(
    st.sampled_from(["mup", "fan_in", "width_ratio", "output", "2", "-1", "0.5", "1e300", "'x'", "None", "True", "a.b", "9"]),
    lambda inner: st.one_of(
        st.builds("{}{}{}".format, inner, st.sampled_from(["**", "*", "/", "-", "+", ".", "%"]), inner),
        st.builds("({})".format, inner),
        st.builds("{}[{}]".format, inner, inner),
        st.builds("mup.tune({}, lr={})".format, inner, inner),
        st.builds("mup.replace(hidden, lr={})".format, inner),
        st.builds("mup.shift({}, {}).with_depth({})".format, inner, inner, inner),
        st.builds("my-own({}, {}, kind={})".format, inner, inner, inner),
        st.builds("completed_p({}, batch_exponent={})".format, inner, inner),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=60), CALLS, st.builds("mup.replace(input, eps={})".format, CALLS)))
@example("mup.replace(input, eps=fan_in**(1/999983)*fan_in**(1/999979))")
@example("mup.replace(hidden, lr=-fan_in*0)")
@example("my_own(kind=2**62+0.5)")
@example("my_own(kind='\\'\"')")
def test_any_text_is_a_table_or_one_error(text: str):
    start = time.process_time()
    try:
        canonical = canonical_text(text)
        table = parameterization_from_text(text)
    except EquimuError as error:
        assert "\n" not in str(error)
    else:
        assert canonical_text(canonical) == canonical
        assert parameterization_from_text(canonical) == table
        assert parameterization_from_dict(json.loads(json.dumps(parameterization_to_dict(table)))) == table
    assert time.process_time() - start < 2


def test_parameterization_of_ones_own_is_called_by_text():
    assert parameterization_from_text("my-own(1, kind=b)", optimizer="sgd", decay="l2") == mine(
        1.0, kind="b", optimizer="sgd"
    )
    # A function that takes neither the run's optimizer nor its decay is not given them; one that asks for them is.
    register_parameterization("plain", lambda: Parameterization(name="plain"))
    assert parameterization_from_text("plain", optimizer="sgd").optimizer == "adam"
    register_parameterization("any", lambda **given: dataclasses.replace(mu.sp(), name=repr(sorted(given))))
    assert parameterization_from_text("any(x=1)", optimizer="sgd", decay="l2").name == "['decay', 'optimizer', 'x']"
    register_parameterization("strict", lambda optimizer, alpha: mu.sp(optimizer=optimizer).tune("output", lr=alpha))
    assert canonical_text("strict(alpha=2)") == "strict(alpha=2)"
    (constants,) = parameterization_from_text("strict(alpha=2)", optimizer="sign").constants
    assert constants == BaseConstants(where="output", lr=2)


def test_whole_numbers_are_what_the_argument_is_declared_as():
    def shows(alpha: float = 0.5, count=2, law: Law = fan_in):  # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
        return Parameterization(name=repr((alpha, count)), branch=law)

    register_parameterization("shows", shows)
    for text in ("shows(1, 3)", "shows(1.0, 3.0)", "shows(2**0, count=9/3)"):
        assert parameterization_from_text(text).name == "(1.0, 3)"
    assert parameterization_from_text("shows(law=2)").branch == Law(2.0)


def test_wrong_registrations_are_refused():
    for name, function, told in [
        ("mup", mine, "equimu's own"),
        ("depth-mup", mine, "equimu's own"),
        ("my own", mine, "is not a name"),
        ("lambda", mine, "is not a name"),
        ("__a", mine, "is not a name"),
        ("other", lambda *args: mu.sp(), "args of 'other' cannot be given by name"),
        ("other", lambda x, /: mu.sp(), "x of 'other' cannot be given by name"),
    ]:
        with pytest.raises(EquimuError, match=told):
            register_parameterization(name, function)
    register_parameterization("wrong", lambda: 3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(EquimuError, match="wrong must make a Parameterization, and made 3"):
        parameterization_from_text("wrong")
