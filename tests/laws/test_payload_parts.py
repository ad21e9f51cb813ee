"""What an order brings and what its report takes back may be parts of the submodel: masked, personal, left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pleat.codec.coding import build as coding
from pleat.codec.transform import Context
from pleat.elastic.choosers import Draw, choose
from pleat.elastic.portion import less
from pleat.elastic.selection import WHOLE, Selection, extract
from pleat.errors import RemoteError
from pleat.exchange.order import Kind, Order, OrderId, Part, Payload, Return, Work
from pleat.exchange.report import Outcome
from pleat.exchange.wire import order_from_bytes, order_to_bytes, report_to_bytes
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import Params, dense
from pleat.shard import Shard
from pleat_client.state import DeviceState, from_bytes, to_bytes
from pleat_client.task import give_back, run
from pleat_server.desk import check_report, decode_payload, part_of

torch.set_num_threads(1)

NET = spec("mlp", (1, 4, 4), 3, first=16, second=8)
MODEL, START = model_map(NET), initial(NET, 0)
RNG = np.random.default_rng(0)
SHARD = Shard(RNG.normal(size=(40, 1, 4, 4)).astype(np.float32), RNG.integers(0, 3, 40))
HALF = choose("magnitude", MODEL, 0.5, Draw(params=START))
HEAD = ("head.bias", "head.weight")


def order(trained: Selection, received: Selection, part: Part = Part.OWN, number: int = 1, **more: object) -> Order:
    context = Context(MODEL, received, number, 0, number - 1)
    frame, _ = coding("raw").encode(extract(MODEL, received, START), coding("raw").init(context), context)
    model = Payload("model", "raw", frame, version=number - 1, selection=None if received == trained else received)
    plain = Order(
        OrderId("run", number, 0),
        "kitchen",
        Kind.TRAIN,
        NET,
        trained,
        work=Work(epochs=1),
        payloads=(model,),
        returns=(Return("update", "raw", part),),
        seed=number,
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def carried(asked: Order) -> Order:
    return order_from_bytes(order_to_bytes(asked))


def update(asked: Order, state: DeviceState) -> tuple[Params, Selection, DeviceState]:
    """What a device returns, as the server sees it, past the desk; and where it lies."""
    report, state = run(carried(asked), state, SHARD)
    assert report.outcome is Outcome.DONE, report.reason
    check_report(MODEL, asked, "kitchen", report_to_bytes(report))
    payload = report.payloads[0]
    return dense(decode_payload(MODEL, asked, payload)), part_of(MODEL, asked, payload), state


def test_a_device_may_train_what_it_was_not_sent_and_return_that_alone() -> None:
    found, part, _ = update(order(WHOLE, HALF, Part.OUTSIDE), DeviceState())
    everything, _, _ = update(order(WHOLE, HALF), DeviceState())
    for name, mask in HALF.masks.items():
        assert (part.masks[name] == ~mask).all()
        assert not found[name][mask].any()
        assert np.array_equal(found[name][~mask], everything[name][~mask])
        assert everything[name][mask].any()
    assert np.array_equal(found["first.bias"], everything["first.bias"])  # what is not masked comes back whole


def test_a_device_may_be_asked_for_what_its_own_masks_leave_out_of_the_squared_gradients() -> None:
    asked = order(HALF, HALF, returns=(Return("update", "raw"), Return("squares", "topk:0.1/f32", Part.OUTSIDE)))
    report, _ = run(carried(asked), DeviceState(), SHARD)
    where = part_of(MODEL, asked, report.payloads[1])
    found = dense(decode_payload(MODEL, asked, report.payloads[1]))
    total = 0
    for name, mask in HALF.masks.items():
        assert np.array_equal(where.masks[name], ~mask)
        assert not found[name][mask].any()
        total += np.count_nonzero(found[name])
    assert total == int(np.ceil(0.1 * sum((~m).sum() for m in HALF.masks.values())))


def test_masks_are_remembered_for_one_order_and_looked_up_by_digest() -> None:
    asked = order(HALF, HALF)
    first, _, state = update(asked, DeviceState())
    assert list(state.masks) == [HALF.masks_digest]
    lent = replace(asked, known=frozenset([HALF.masks_digest]))
    assert not carried(lent).selection.masks
    again, part, _ = update(lent, from_bytes(to_bytes(state)))
    assert part == HALF
    assert all(np.array_equal(first[n], again[n]) for n in first)
    other = choose("magnitude", MODEL, 0.25, Draw(params=START))
    _, _, later = update(order(other, other), state)
    assert list(later.masks) == [other.masks_digest]


def test_a_mask_that_the_device_does_not_hold_is_refused_by_its_digest_and_changes_nothing() -> None:
    lent = replace(order(HALF, HALF), known=frozenset([HALF.masks_digest]))
    assert lent.leans
    before = DeviceState()
    report, state = run(carried(lent), before, SHARD)
    assert report.outcome is Outcome.REFUSED
    assert report.reason.startswith(f"needs full: order run/1/0 names mask {HALF.masks_digest.hex()[:16]}")
    assert "this device holds none" in report.reason
    assert state is before


def test_personal_tensors_are_not_returned_and_after_the_first_order_not_sent() -> None:
    first = order(WHOLE, WHOLE, personal=HEAD)
    assert not first.leans
    found, part, state = update(first, DeviceState())
    assert all(not found[n].any() for n in HEAD)
    assert found["first.weight"].any()
    assert part == less(MODEL, WHOLE, HEAD)
    assert sorted(state.own) == sorted(HEAD)
    assert not np.array_equal(state.own["head.weight"], START["head.weight"])

    second = order(WHOLE, less(MODEL, WHOLE, HEAD), number=2, personal=HEAD)
    assert second.leans
    whole = order(WHOLE, WHOLE, number=2, personal=HEAD)
    assert len(second.payloads[0].frame) < len(whole.payloads[0].frame) - 4 * 20
    one, _, after = update(second, from_bytes(to_bytes(state)))
    other, _, _ = update(whole, state)
    assert not np.array_equal(one["first.weight"], other["first.weight"])  # trained behind another head
    assert not np.array_equal(after.own["head.weight"], state.own["head.weight"])


def test_personal_tensors_stay_when_a_report_comes_back() -> None:
    asked = carried(order(WHOLE, WHOLE, personal=HEAD))
    before = DeviceState()
    _, after = run(asked, before, SHARD)
    back = give_back(asked, before, after)
    assert np.array_equal(back.own["head.weight"], after.own["head.weight"])


def test_a_device_without_its_personal_tensors_asks_for_everything() -> None:
    report, _ = run(carried(order(WHOLE, less(MODEL, WHOLE, HEAD), personal=HEAD)), DeviceState(), SHARD)
    assert report.outcome is Outcome.REFUSED
    assert report.reason == "needs full: head.bias is personal, and this device has none of its own yet"


def test_a_device_that_changes_its_masks_says_so_and_one_that_does_not_says_nothing() -> None:
    work = Work(epochs=1, adjust="shrink", settings={"least": -1.0, "distance": -1.0, "prune": 0.2})
    _, part, state = update(order(WHOLE, WHOLE, Part.CHOSEN, work=work), DeviceState())
    assert {n: round(float(m.mean()), 2) for n, m in part.masks.items()} == {
        "first.weight": 0.8,
        "head.weight": 0.83,  # 24 entries less 4
        "second.weight": 0.8,
    }
    assert list(state.masks) == [part.masks_digest]
    report, _ = run(carried(order(HALF, HALF, Part.CHOSEN)), DeviceState(), SHARD)
    assert report.payloads[0].selection is None


@pytest.mark.parametrize(
    ("part", "chosen", "told"),
    [
        (Part.OWN, HALF, "brings masks that were not asked for"),
        (Part.CHOSEN, choose("prefix", MODEL, 0.5, Draw()), "has another submodel than its order"),
        (Part.CHOSEN, Selection(lent=bytes(32)), "has another submodel than its order"),
        (Part.CHOSEN, Selection(masks={"first.weight": np.ones((2, 2), np.bool_)}), "must be bool of shape"),
    ],
)
def test_masks_that_a_device_may_not_choose_are_refused(part: Part, chosen: Selection, told: str) -> None:
    asked = order(WHOLE, WHOLE, part)
    report, _ = run(carried(asked), DeviceState(), SHARD)
    forged = replace(report, payloads=(replace(report.payloads[0], selection=chosen),))
    with pytest.raises(Exception, match=told) as caught:
        check_report(MODEL, asked, "kitchen", report_to_bytes(forged))
    assert isinstance(caught.value, RemoteError) or "must be bool" in told
