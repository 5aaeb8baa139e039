"""What the mathematics of a step needs, whatever program does it: operations of the matrix products and of attention."""

import math
from typing import Any

from equimu._values import Real
from equimu.attention import kernel_products
from equimu.parameterization import Rule, Tree, rules_of
from equimu.runs import RunConfig
from equimu.tasks import LanguageModel
from equimu.training._products import product_flops, without_unused


def parameter_count(tree: Tree[Any]) -> int:
    """Entries of all arrays of a tree of rules, or of a part of it."""
    return sum(math.prod(rule.shape) for rule in rules_of(tree))


def matrix_entries(tree: Tree[Any]) -> int:
    """Entries of the arrays that each token is multiplied by: not of tables that it is looked up in, nor of vectors.

    Args:
        tree: of rules.
    """
    return sum(math.prod(rule.shape) for rule in rules_of(tree) if _is_matrix(rule))


def attention_flops_of_layer(config: RunConfig) -> Real:
    """Operations of the scores and of the sums of values, forward, of a layer over the batch; of what is seen only.

    Of other tasks than `LanguageModel` they are not known apart.

    Args:
        config: of the run.
    """
    task = config.task
    if not isinstance(task, LanguageModel):
        return 0.0
    seen = task.text.seq * (task.text.seq + 1) / 2
    return 4.0 * config.size["width"] * seen * task.text.rows


def attention_flops(config: RunConfig) -> Real:
    """Operations of the scores and of the sums of values, forward, of all layers over the batch.

    Args:
        config: of the run.
    """
    return attention_flops_of_layer(config) * config.size.get("depth", 1)


def model_flops(config: RunConfig, tree: Tree[Any], jaxpr: Any) -> Real:
    """Operations of a training step without recomputation.

    Of the decoder: two an entry and token forward, four backward, and attention. Of other tasks: the matrix products and
    convolutions of the traced step, without those whose results it does not use.

    Args:
        config: of the run.
        tree: its rules.
        jaxpr: its traced step.
    """
    task = config.task
    if not isinstance(task, LanguageModel):
        return product_flops(without_unused(jaxpr))
    return 6.0 * matrix_entries(tree) * task.text.rows * task.text.seq + 3 * attention_flops(config)


def kernel_flops(name: str, forward: Real) -> Real:
    """Operations of one call of an attention kernel, of what is seen; none of a kernel that no attention backend declares.

    Args:
        name: of the kernel in the compiled program, where what it was transformed by stands around its own name.
        forward: operations of the two products of the forward pass.
    """
    declared = kernel_products()
    own = max((known for known in declared if known in name), key=len, default=None)
    return 0.0 if own is None else declared[own] / 2 * forward


def _is_matrix(rule: Rule) -> bool:
    declared = rule.leaf.axes
    uses = () if declared is None else (declared.words, declared.tied or ())
    return any("in" in words and not {"out", "inner"}.isdisjoint(words) for words in uses)
