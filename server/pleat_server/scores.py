"""How good the model is after a round: on the server's own data, else on the devices' hold-outs."""

from __future__ import annotations

from typing import Any, Protocol

from pleat.elastic.selection import Selection
from pleat.params import Params
from pleat_server.folding import Folded
from pleat_server.round import Setup, sizes_of
from pleat_server.state import State, seen_at


class Evaluator(Protocol):
    """Scores a submodel on the server's own data: (correct, scored, summed loss)."""

    def __call__(self, params: Params, selection: Selection) -> tuple[int, int, float]: ...


def scores_of(setup: Setup, state: State, folded: Folded, evaluate: Evaluator | None, last: int = 0) -> dict[str, Any]:
    """Accuracy and loss of the evaluated copy, at its largest and every offered size, or by the devices' hold-outs;
    nothing in rounds before the `last` in which the recipe does not ask for it."""
    if state.round % setup.recipe.server.scored and state.round < last:
        return {}
    if evaluate is None or setup.personal:  # with personal tensors no model of the server's is anybody's
        return _by_devices(folded)
    sizes: dict[str, float] = {}
    out: dict[str, Any] = {"accuracy_by_size": sizes}
    for rung, selection in sizes_of(setup, state).items():
        correct, scored, loss = evaluate(seen_at(state.evaluated, state.extras, rung), selection)
        if not sizes:  # the largest comes first
            out |= {"accuracy": correct / scored, "loss": loss / scored}
        sizes[rung.label] = correct / scored
    return out


def _by_devices(folded: Folded) -> dict[str, Any]:
    """Scores of the submodels as the devices received them, before training: the model of the round before."""
    metrics = [r.metrics for _, r in folded.accepted if r.metrics.get("scored")]
    scored = sum(m["scored"] for m in metrics)
    if not scored:
        return {}
    loss = sum(m.get("scored_loss", 0.0) * m["scored"] for m in metrics)
    return {"accuracy": sum(m["correct"] for m in metrics) / scored, "loss": loss / scored}
