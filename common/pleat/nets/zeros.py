"""Zeros: which values are surely 0 at channels whose tensors are 0, and which may be *lit* there.

A channel that is left out counts as one whose weights, biases and statistics are 0. Most steps keep such zeros; a
sigmoid or an added number does not. To a layer that is no matter: its weights for the channel are 0 too. But where two
values are multiplied and summed over their channels, one of them has to be 0, or what is left out would still count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx, nn

if TYPE_CHECKING:
    from pleat.nets.walk import Walk


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LIGHTS = _words(  # what makes something of 0, or is not known not to
    "sigmoid sigmoid_ exp rsqrt reciprocal hardsigmoid softplus logsigmoid log cos pow clamp clamp_ clip threshold "
    "rrelu eq ne gt ge lt le and_ or_ invert logical_and logical_or logical_not masked_fill masked_fill_ where lerp "
    "addcmul addcdiv softmax log_softmax logsumexp ones_like empty_like batch_norm layer_norm"
)
_SUMS = _words("add add_ iadd __add__ __radd__ __iadd__ sub sub_ isub rsub __sub__ __rsub__ __isub__")
_PRODUCTS = _words("mul mul_ imul __mul__ __rmul__ __imul__")
_QUOTIENTS = _words("div div_ true_divide truediv itruediv __truediv__ __rtruediv__ __itruediv__")
_MATRICES = _words("matmul bmm mm __matmul__")
_FRESH = _words("linear conv1d conv2d conv3d zeros_like")
_PLAIN_NORMS = (nn.LayerNorm, nn.RMSNorm) if hasattr(nn, "RMSNorm") else (nn.LayerNorm,)


def lit(walk: Walk, node: fx.Node, module: nn.Module | None) -> bool:
    """Whether the result of a step may be other than 0 at channels that are left out."""
    if node.op == "get_attr":
        return not walk.name_of(node)
    inputs = walk.inputs(node)
    if module is not None and not isinstance(module, nn.PReLU) and any(True for _ in module.parameters()):
        return False  # its tensors for the channel are 0, biases included
    if module is not None and isinstance(module, _PLAIN_NORMS):
        return True
    name = type(module).__name__.lower() if module is not None else str(getattr(node.target, "__name__", node.target))
    rule = next((rule for names, rule in _RULES if name in names), None)
    return any(n in walk.lit for n in node.all_input_nodes) if rule is None else rule(walk, node, inputs)


def _spans(walk: Walk, source: fx.Node, node: fx.Node) -> bool:
    """Whether a factor or term has all the channels of the result, so that none of them is a stretched one."""
    whole, own = walk.labels.get(node, ()), walk.shape(source)
    missing = len(whole) - len(own)
    shape = walk.shape(node)
    return all(i >= missing and own[i - missing] == shape[i] for i, label in enumerate(whole) if walk.may_shrink(label))


def _sum(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    return len(inputs) < 2 or any(n in walk.lit or not _spans(walk, n, node) for n in inputs)


def _product(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    return all(n in walk.lit or not _spans(walk, n, node) for n in inputs)


def _quotient(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    swapped = node.target == "__rtruediv__"
    above: Any = node.args[1 if swapped else 0]
    return above not in walk.labels or above in walk.lit or not _spans(walk, above, node)


def _matrices(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    """The rows are the first factor's, the columns the second's."""
    first, second = node.args[0], node.args[1]
    labels = walk.labels.get(node, ())
    sides = ((first, labels[:-1]), (second, (*labels[:-2], *labels[-1:])))
    return any(n in walk.lit and any(map(walk.may_shrink, axes)) for n, axes in sides)


def _einsum(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    """Each letter of the result is 0 where one of the factors that have it is."""
    entering, _, leaving = str(node.args[0]).replace(" ", "").partition("->")
    pairs = list(zip(entering.split(","), inputs, strict=False))
    named = zip(leaving, walk.labels.get(node, ()), strict=False)
    loose = [letter for letter, label in named if walk.may_shrink(label)]
    return any(all(n in walk.lit for letters, n in pairs if letter in letters) for letter in loose)


def _padding(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
    return bool(value) or any(n in walk.lit for n in inputs)


def _always(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    return True


def _never(walk: Walk, node: fx.Node, inputs: list[fx.Node]) -> bool:
    return False


_RULES: tuple[tuple[frozenset[str], Callable[[Walk, fx.Node, list[fx.Node]], bool]], ...] = (
    (_LIGHTS, _always),
    (_FRESH, _never),
    (_SUMS, _sum),
    (_PRODUCTS, _product),
    (_QUOTIENTS, _quotient),
    (_MATRICES, _matrices),
    (frozenset(["einsum"]), _einsum),
    (frozenset(["pad"]), _padding),
)
