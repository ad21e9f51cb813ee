"""Objectives on hand-worked logits: what each yields, and in which order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pleat.errors import UseError
from pleat.exchange import skills
from pleat_client.objectives import OBJECTIVES, objective, ramped

Y = torch.tensor([0, 1])


class Given:
    """Logits written down per size."""

    def __init__(self, *logits: list[list[float]]) -> None:
        self.tensors = [torch.tensor(one, requires_grad=True) for one in logits]
        self.asked: list[int] = []
        self.seen: torch.Tensor | None = None

    @property
    def sizes(self) -> int:
        return len(self.tensors)

    def __call__(self, size: int) -> torch.Tensor:
        self.asked.append(size)
        return self.tensors[size]

    def exits(self, size: int) -> tuple[torch.Tensor, ...]:
        """Here the sizes stand for the exits of the own size."""
        self.asked.append(size)
        return tuple(self.tensors)


def terms(name: str, logits: Given, seed: int = 0, **settings: float) -> list[float]:
    return [w * loss.item() for w, loss in objective(name)(logits, Y, settings, np.random.default_rng(seed))]


FLAT, SURE = [[0.0, 0.0], [0.0, 0.0]], [[math.log(3), 0.0], [0.0, math.log(3)]]
CE_FLAT, CE_SURE = math.log(2), math.log(4 / 3)


def test_cross_entropy_trains_the_own_size_alone() -> None:
    logits = Given(SURE, FLAT)
    assert terms("cross_entropy", logits) == pytest.approx([CE_SURE])
    assert logits.asked == [0]


def test_masked_sets_the_logits_of_absent_classes_to_0_and_gives_their_rows_no_gradient() -> None:
    # Class 2 is absent: its logit 5 counts as 0. Softmax of (log 3, 0, 0): 3/5, 1/5, 1/5.
    logits = Given([[math.log(3), 0.0, 5.0], [math.log(3), 0.0, 5.0]])
    logits.seen = torch.tensor([1.0, 1.0, 0.0])
    (_, loss), *_ = objective("masked")(logits, Y, {}, np.random.default_rng(0))
    assert loss.item() == pytest.approx((math.log(5 / 3) + math.log(5)) / 2)
    loss.backward()
    grad = logits.tensors[0].grad
    assert grad is not None
    assert not grad[:, 2].any()
    assert grad[:, :2].all()


def test_masked_with_every_class_seen_is_cross_entropy() -> None:
    logits = Given(SURE)
    logits.seen = torch.ones(2)
    assert terms("masked", logits) == terms("cross_entropy", Given(SURE)) == terms("masked", Given(SURE))


def test_joint_sums_cross_entropy_over_all_sizes_own_first() -> None:
    logits = Given(SURE, FLAT, SURE)
    assert terms("joint", logits) == pytest.approx([CE_SURE, CE_FLAT, CE_SURE])
    assert logits.asked == [0, 1, 2]


def test_joint_shares_a_total_weight_equally_among_the_sizes() -> None:
    assert terms("joint", Given(SURE, FLAT, SURE, FLAT), total=2.0) == pytest.approx(
        [0.5 * CE_SURE, 0.5 * CE_FLAT, 0.5 * CE_SURE, 0.5 * CE_FLAT]
    )
    assert terms("joint", Given(FLAT), total=2.0) == pytest.approx([2 * CE_FLAT])


def test_exits_sums_cross_entropy_over_all_exits_of_one_pass() -> None:
    logits = Given(SURE, FLAT, SURE)
    assert terms("exits", logits) == pytest.approx([CE_SURE + CE_FLAT + CE_SURE])
    assert logits.asked == [0]
    assert terms("exits", Given(SURE)) == terms("cross_entropy", Given(SURE))


def test_exits_teach_each_other_by_the_divergence_of_their_softmaxes() -> None:
    # p = (3/4, 1/4) for the sure exit and its class, q = (1/2, 1/2) for the flat one:
    # KL(p || q) = 3/4 log 3/2 + 1/4 log 1/2 = 0.1308, KL(q || p) = 1/2 log 2/3 + 1/2 log 2 = 0.1438
    one, other = 0.75 * math.log(1.5) - 0.25 * math.log(2), 0.5 * math.log(2 / 3) + 0.5 * math.log(2)
    assert (one, other) == pytest.approx((0.1308, 0.1438), abs=1e-4)
    plain = CE_SURE + CE_FLAT
    assert terms("exits", Given(SURE, FLAT), distil=1.0) == pytest.approx([plain + one + other])
    assert terms("exits", Given(SURE, FLAT), distil=0.5) == pytest.approx([plain + 0.5 * (one + other)])
    # three exits, two of which say the same: each pair counts half
    three = plain + CE_FLAT + (2 * one + 2 * other) / 2
    assert terms("exits", Given(SURE, FLAT, FLAT), distil=1.0) == pytest.approx([three])
    assert terms("exits", Given(SURE), distil=1.0) == pytest.approx([CE_SURE])


def test_an_exit_that_teaches_is_held_fixed() -> None:
    """Without cross-entropy, the flat exit would move to the sure one by softmax - softmax: (1/2 - 3/4) / 2 samples."""
    sure, flat = Given(SURE, FLAT), Given(SURE, FLAT)
    for logits, share in ((sure, 0.0), (flat, 1.0)):
        (_, loss), *_ = objective("exits")(logits, Y, {"distil": share}, np.random.default_rng(0))
        loss.backward()
    taught = flat.tensors[1].grad[0, 0] - sure.tensors[1].grad[0, 0]
    assert float(taught) == pytest.approx((0.5 - 0.75) / 2)
    back = flat.tensors[0].grad[0, 0] - sure.tensors[0].grad[0, 0]
    assert float(back) == pytest.approx((0.75 - 0.5) / 2)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, math.exp(-5)), (75, math.exp(-5 * 0.75**2)), (150, math.exp(-1.25)), (300, 1.0), (1000, 1.0)],
)
def test_distillation_between_exits_ramps_up_over_the_rounds(number: int, expected: float) -> None:
    assert ramped({"distil": 1.0, "ramp": 300.0, "round": number}) == pytest.approx(expected)
    assert ramped({"distil": 0.5, "ramp": 300.0, "round": number}) == pytest.approx(expected / 2)
    assert ramped({"distil": 1.0, "round": number}) == 1.0
    assert ramped({"ramp": 300.0, "round": number}) == 0.0


def test_weighted_exits_count_the_more_the_deeper() -> None:
    """n = 3: 1/6, 2/6, 3/6; n = 1: 1."""
    assert terms("weighted_exits", Given(SURE, FLAT, SURE)) == pytest.approx([CE_SURE / 6 + CE_FLAT / 3 + CE_SURE / 2])
    assert terms("weighted_exits", Given(SURE)) == terms("cross_entropy", Given(SURE))


def test_weighted_exits_learn_from_the_deepest_from_a_round_on() -> None:
    """At T = 2 the sure exit's softmax is sqrt(3) : 1, and KL(flat || it) = -log(2) - (log p + log q) / 2."""
    p = math.sqrt(3) / (1 + math.sqrt(3))
    cooled = -math.log(2) - (math.log(p) + math.log(1 - p)) / 2
    plain, settings = CE_SURE / 3 + 2 * CE_FLAT / 3, {"distil": 0.5, "temperature": 2.0, "since": 5.0}
    assert terms("weighted_exits", Given(SURE, FLAT), round=4, **settings) == pytest.approx([plain])
    later = terms("weighted_exits", Given(SURE, FLAT), round=5, **settings)
    assert later == pytest.approx([plain + 0.5 * 4 * cooled / 3])


def test_distilled_teaches_one_smaller_size_by_the_own_softmax() -> None:
    # Teacher (3/4, 1/4), student (1/2, 1/2): cross-entropy of the two is log 2.
    assert terms("distilled", Given(SURE, FLAT)) == pytest.approx([CE_SURE, 0.5 * CE_FLAT + 0.5 * math.log(2)])
    # Teacher (1/2, 1/2), student (3/4, 1/4): (log(4/3) + log 4) / 2.
    taught = (math.log(4 / 3) + math.log(4)) / 2
    assert terms("distilled", Given(FLAT, SURE), distil=0.25) == pytest.approx(
        [CE_FLAT, 0.75 * CE_SURE + 0.25 * taught]
    )


def test_distilled_leaves_the_teacher_alone() -> None:
    logits = Given(SURE, FLAT)
    *_, (_, last) = objective("distilled")(logits, Y, {}, np.random.default_rng(0))
    last.backward()
    assert logits.tensors[0].grad is None
    assert logits.tensors[1].grad is not None


def test_temperature_softens_both_sides() -> None:
    # At T = 2 with logits twice as sharp, both softmaxes are those of T = 1, and the term counts T^2 = 4 times.
    twice = [[2 * v for v in row] for row in SURE]
    _, hot = terms("distilled", Given(twice, FLAT), distil=1.0, temperature=2.0)
    assert hot == pytest.approx(4 * math.log(2))


def test_distilled_without_a_smaller_size_is_cross_entropy() -> None:
    assert terms("distilled", Given(SURE)) == pytest.approx([CE_SURE])


@pytest.mark.parametrize("name", ["distilled", "nested_draw"])
def test_every_size_is_drawn_about_equally_often(name: str) -> None:
    rng, counts = np.random.default_rng(1), np.zeros(4)
    for _ in range(600):
        logits = Given(SURE, SURE, SURE, SURE)
        list(objective(name)(logits, Y, {}, rng))
        counts[logits.asked[-1]] += 1
    drawn = counts[1:] if name == "distilled" else counts
    assert drawn.sum() == 600
    assert (np.abs(drawn / 600 - 1 / drawn.size) < 0.07).all()


def test_nested_draw_trains_one_size_a_batch_or_two_when_it_distils() -> None:
    seed = next(s for s in range(20) if int(np.random.default_rng(s).integers(0, 2)) == 1)
    assert terms("nested_draw", Given(SURE, FLAT), seed) == pytest.approx([CE_FLAT])
    assert terms("nested_draw", Given(SURE, FLAT), seed, distil=0.5) == pytest.approx(
        [CE_SURE, 0.5 * CE_FLAT + 0.5 * math.log(2)]
    )


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_objective_yields_finite_terms_for_every_number_of_sizes(name: str) -> None:
    for sizes in range(1, 5):
        found = terms(name, Given(*[SURE] * sizes))
        assert found
        assert np.isfinite(found).all()


def test_what_recipes_may_ask_for_is_what_there_is() -> None:
    assert set(OBJECTIVES) == set(skills.OBJECTIVES)


def test_an_unknown_objective_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UseError, match="unknown objective 'joynt'; did you mean 'joint'"):
        objective("joynt")
