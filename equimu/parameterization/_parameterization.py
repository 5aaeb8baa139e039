"""`Parameterization`: a table of laws, and the operations that make one table from another."""

import dataclasses
from collections.abc import Mapping
from typing import Literal, TypeAlias, TypeVar, get_args

from equimu._errors import EquimuError, nearest
from equimu._types import Scalar
from equimu._values import NotNegative, Real, check, checked, is_traced
from equimu.parameterization._law import ONE, Law, as_law, depth_ratio, fan_in
from equimu.parameterization._rule import DECAY_RULES, FAMILIES, NUMBERS, ROLES, DecayRule, Family, Role

EpsRule: TypeAlias = Literal["gradient", "lr", "constant"]
StartRule: TypeAlias = Literal["law", "constructor"]
"""What drawn arrays start from; see `Parameterization`."""

# Multiplying a weight's use by θ and dividing the weight by θ changes nothing if its learning rate is divided by θ to this
# power: the gradient grows by θ, which SGD follows, Adam's, Lion's and Muon's updates do not, and Adafactor's are relative.
_SHIFT_OF_RATE: Mapping[Family, int] = {"adam": 1, "sign": 1, "muon": 1, "sgd": 2, "adafactor": 0}
_HAVE_EPS: frozenset[Family] = frozenset({"adam", "adafactor", "muon"})

_Number = TypeVar("_Number", Law, float)


def shift_of_numbers(factor: _Number, optimizer: Family, decay: DecayRule) -> dict[str, _Number]:
    """By what each number changes where `factor` moves from a weight into its multiplier and the training stays the same.

    Args:
        factor: what moves.
        optimizer: the family of optimizers.
        decay: the rule of weight decay.
    """
    power = _SHIFT_OF_RATE[optimizer]
    return {
        "init_std": factor**-1,
        "multiplier": factor,
        "lr": factor**-power,
        "eps": factor ** int(optimizer in _HAVE_EPS),
        # Only what passes through the leaf's learning rate has changed with it. Decay in the gradient is added to a gradient
        # that has grown by the factor, and is of a weight that has shrunk by it.
        "weight_decay": factor ** {"standard": power, "l2": 2}.get(decay, 0),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The numbers of one role, as laws.

    - `init_std`: standard deviation of the initial draw.
    - `multiplier`: what the array is multiplied by in the forward pass.
    - `lr`, `weight_decay`, `eps`: factors on the base learning rate, decay and epsilon.
    - `one_minus_beta`: factor on 1 − β of the optimizer's running averages.
    """

    init_std: Law = fan_in**-0.5
    multiplier: Law = ONE
    lr: Law = ONE
    weight_decay: Law = ONE
    eps: Law = ONE
    one_minus_beta: Law = ONE

    def replace(self, **laws: Law | Real) -> "Row":
        """The same row with some laws replaced.

        Raises:
            EquimuError: an unknown law.
        """
        for name in laws:
            if name not in NUMBERS:
                raise EquimuError(f"a row has no {name!r}: {nearest(name, NUMBERS)}")
        return dataclasses.replace(self, **{name: as_law(law) for name, law in laws.items()})

    def times(self, **laws: Law | Real) -> "Row":
        """The same row with some laws multiplied."""
        return self.replace(**{name: getattr(self, name) * law for name, law in laws.items()})


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConstants:
    """Factors on the numbers of some leaves: what is tuned on the small model and carried to the large one.

    `where` is a role, or the path of a leaf or of a module (`"blocks.mlp"` stands for every leaf inside it). Factors
    may be traced.

    - `init_std`, `multiplier`, `lr`, `weight_decay`, `eps`, `one_minus_beta`: the factors.
    """

    where: str
    init_std: Scalar = 1.0
    multiplier: Scalar = 1.0
    lr: Scalar = 1.0
    weight_decay: Scalar = 1.0
    eps: Scalar = 1.0
    one_minus_beta: Scalar = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameterization:
    """A table of laws, one row a role, for one family of optimizers and one rule of weight decay.

    - `name`: what tables and errors call it.
    - `input`, `hidden`, `output`, `vector`, `scalar`: the laws of each role.
    - `optimizer`: `"adam"` (any update normalised by a second moment), `"sign"` (Lion, signSGD), `"sgd"`, `"adafactor"` (steps
      relative to the weight's root mean square) or `"muon"` (orthogonalised updates on hidden matrices, Adam elsewhere).
    - `decay`: the rule of weight decay that the laws of `weight_decay` are for; see `equimu.adamw`.
    - `branch`: the factor on each residual branch. It stands in the multiplier of the arrays that end a branch
      (`equimu.register_residual`).
    - `start`: what drawn arrays start from: `"law"`, a normal draw with the law's standard deviation; or `"constructor"`, what
      the model's own constructor draws, with the spread that it has at the base sizes and from there on grows as the law does.
    - `constants`: base constants, applied in order on top of the laws.

    Raises:
        EquimuError: an unknown family of optimizers, rule of decay or start.

    Example: a parameterization of one's own.
        >>> mine = Parameterization(name="mine", output=Row(init_std=1 / fan_in, lr=1 / width_ratio),
        ...                         hidden=Row(lr=1 / width_ratio))
    """

    name: str
    optimizer: Family = "adam"
    decay: DecayRule = "independent"
    input: Row = Row()
    hidden: Row = Row()
    output: Row = Row()
    vector: Row = Row()
    scalar: Row = Row()
    branch: Law = ONE
    start: StartRule = "law"
    constants: tuple[BaseConstants, ...] = ()

    def __post_init__(self) -> None:
        check_choice("optimizer", self.optimizer, FAMILIES)
        check_choice("decay", self.decay, DECAY_RULES)
        check_choice("start", self.start, get_args(StartRule))

    def row(self, role: Role) -> Row:
        """The laws of a role."""
        return getattr(self, role)

    def replace(self, role: Role, **laws: Law | Real) -> "Parameterization":
        """The same table with some laws of one role replaced, e.g. `mup().replace("output", init_std=fan_in**-0.5)`.

        Raises:
            EquimuError: an unknown role or law.
        """
        check_choice("role", role, ROLES)
        return dataclasses.replace(self, **{role: self.row(role).replace(**laws)})

    def tune(self, where: str, **factors: Scalar) -> "Parameterization":
        """The same table with base constants on a role, module or leaf, e.g. `mup().tune("output", multiplier=4.0)`.

        Raises:
            EquimuError: an unknown number, or a factor that it cannot have.
        """
        check(str, where=where)
        for name, factor in factors.items():
            check_choice("base constant", name, NUMBERS)
            if not is_traced(factor):
                checked(f"{name} of {where}", factor, float if name == "multiplier" else NotNegative)
        return dataclasses.replace(self, constants=(*self.constants, BaseConstants(where=where, **factors)))

    def shift(self, role: Role, factor: Law | Real) -> "Parameterization":
        """An equivalent table: the role's weights are multiplied by `factor` in the forward pass and drawn smaller by it.

        Learning rate, epsilon and decay change such that training from corresponding initial weights is the same, for
        the table's family of optimizers and rule of decay. (Clipping by the global norm of the gradients breaks that: their
        norms change.) NTK is a shifted SP, and Tables 8 and 9 of TP-V are shifted Tables 3.

        Raises:
            EquimuError: an unknown role, or a factor that is not positive.
        """
        check_choice("role", role, ROLES)
        if as_law(factor).coefficient <= 0:
            raise EquimuError(f"a shift is by a positive factor, got {factor}")
        return self._each_row({role}, **shift_of_numbers(as_law(factor), self.optimizer, self.decay))

    def with_depth(self, alpha: Real, *, depth: Law = depth_ratio) -> "Parameterization":
        """The same table with rules of depth: residual branches are multiplied by depth^-alpha.

        Inside the residual blocks an update of a weight then moves the stream by depth^-alpha times what it moves its own
        branch, and `depth` of them add up, so learning rates are multiplied by depth^(alpha−1) where updates are normalised,
        and by depth^(2·alpha−1) under SGD, whose gradients carry the branch's factor as well. Epsilon follows the gradients.
        CompleteP (arXiv 2505.01618) for alpha from 1/2 to 1; alpha 1/2 is depth-μP (arXiv 2310.02244). SGD's power for other
        alphas is derived here.

        Args:
            alpha: the power.
            depth: a law that is 1 outside repeated blocks: `depth_ratio`, or `depth` for rules that are not relative to a base.

        Raises:
            EquimuError: the table has rules of depth.
        """
        check(float, alpha=alpha)
        if self.branch.exponents:
            raise EquimuError(f"{self.name} has rules of depth already: it multiplies branches by {self.branch}")
        power = 2 * alpha - 1 if self.optimizer == "sgd" else alpha - 1
        eps = depth**-alpha if self.optimizer in _HAVE_EPS else ONE
        # Decay in the gradient keeps its share of a step: λ times the rate over the gradient, or under SGD λ times the rate.
        weight_decay = depth ** (1 - 2 * alpha) if self.decay == "l2" else ONE
        deep = self._each_row(set(ROLES), lr=depth**power, eps=eps, weight_decay=weight_decay)
        return dataclasses.replace(deep, branch=self.branch * depth**-alpha)

    def with_plain_decay(self) -> "Parameterization":
        """The same table with factors of 1 on `"standard"` decay: each leaf shrinks by η · lr · λ, as published tables do.

        `shift` and `tpv(3).shift(...)` keep a training with its decay instead, by other factors.
        """
        if self.decay != "standard":
            return self
        return dataclasses.replace(self, **{role: self.row(role).replace(weight_decay=ONE) for role in ROLES})

    def with_start(self, start: StartRule) -> "Parameterization":
        """The same table with drawn arrays as the law says (`"law"`) or as the model's constructor draws (`"constructor"`).

        From `"constructor"` a model starts at the base sizes as its author meant it to, to the bit where multipliers are 1
        there. At other sizes its draws are multiplied by what the law's spread grows by and the constructor's does not.
        """
        return dataclasses.replace(self, start=start)

    def with_eps(self, eps: EpsRule) -> "Parameterization":
        """The same table with epsilon as it is (`"gradient"`), scaled like the learning rate (`"lr"`), or `"constant"`.

        Raises:
            EquimuError: an unknown rule.
        """
        check_choice("eps", eps, ("gradient", "lr", "constant"))
        if eps == "gradient":
            return self
        rows = {role: self.row(role).replace(eps=self.row(role).lr if eps == "lr" else ONE) for role in ROLES}
        return dataclasses.replace(self, **rows)

    def uses(self, *symbols: str) -> bool:
        """Whether any of these sizes stands in any law of the table."""
        laws = (getattr(self.row(role), number) for role in ROLES for number in NUMBERS)
        return any(law.uses(*symbols) for law in (self.branch, *laws))

    def _each_row(self, roles: set[Role], **laws: Law) -> "Parameterization":
        return dataclasses.replace(self, **{role: self.row(role).times(**laws) for role in roles})


def check_choice(what: str, given: object, valid: tuple[str, ...]) -> None:
    """Raises an `EquimuError` with the nearest valid name unless the given one is valid."""
    if given not in valid:
        raise EquimuError(f"{what} {given!r} is unknown: {nearest(str(given), valid)}")
