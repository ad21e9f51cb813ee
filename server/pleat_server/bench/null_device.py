"""A device that trains nothing, for `round.py`: the real link, store and codings, and a fixed random update.

It keeps the memory that it frees, as a trainer does while it takes steps.

python -m pleat_server.bench.null_device HOST:PORT NAME STATE_FOLDER
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pleat.exchange.order import Kind, Order
from pleat.exchange.report import Measured, Profile, Report
from pleat.exchange.wire import order_from_bytes, order_id, report_to_bytes
from pleat.modelmap import ModelMap
from pleat.nets.trace import model_map
from pleat.params import Params
from pleat_client import thrift
from pleat_client.link import Link
from pleat_client.payloads import Learnt, give, receive
from pleat_client.state import DeviceState, limited, to_bytes
from pleat_client.store import Store
from pleat_client.worker import RESIDUAL_CAP

SCALE = 1e-3  # standard deviation of the update's entries


class NullDevice:
    """A `link.Handler` that answers each order as the trainer child does, with a random update in place of training."""

    def __init__(self, name: str, store: Store) -> None:
        self.store = store
        self.link: Link | None = None
        self._rng = np.random.Generator(np.random.PCG64(sum(name.encode())))
        self._noise: Params = {}
        self._state = DeviceState()

    def held(self) -> Sequence[str]:
        return ()

    def on_joined(self, run: str) -> None:
        pass

    def on_lost(self, reason: str) -> None:
        pass

    def on_notify(self, text: str) -> None:
        pass

    def on_cancel(self, order: str) -> None:
        pass

    def on_ack(self, order: str) -> None:
        self.store.commit(order_id(order))

    def on_returned(self, order: str, reason: str) -> None:
        sys.exit(f"null device: report on {order} came back: {reason}")

    def on_order(self, data: bytes, down_s: float) -> None:
        order = order_from_bytes(data)
        before = self._state
        report, self._state = self._done(order, before)
        state = None if self._state is before else to_bytes(limited(self._state, RESIDUAL_CAP))
        path = self.store.stage(order.id, report_to_bytes(report), state)
        if self.link is not None:
            self.link.report(str(order.id), path)

    def _done(self, order: Order, state: DeviceState) -> tuple[Report, DeviceState]:
        report = Report(order.id, order.device, samples=100, labels=tuple(range(10)))
        if order.kind is Kind.MEASURE:
            return replace(report, measured=tuple(Measured(1e-3, 1 << 20) for _ in order.nested)), state
        return self._trained(order, report, model_map(order.net), state)

    def _trained(self, order: Order, report: Report, model: ModelMap, state: DeviceState) -> tuple[Report, DeviceState]:
        received, version, state = receive(order, model, state)
        noise = self._noise or {n: self._drawn(a.shape) for n, a in received.items()}
        self._noise = noise
        learnt = Learnt(order.selection, {n: a + noise[n] for n, a in received.items()}, {})
        payload, state = give(order, order.returns[0], model, state, received, learnt, version)
        return replace(report, payloads=(payload,), metrics={"loss": 1.0}), state

    def _drawn(self, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return SCALE * self._rng.standard_normal(shape, np.float32)


async def serve(address: str, name: str, folder: Path) -> None:
    thrift.keep_buffers()
    store = Store(folder)
    device = NullDevice(name, store)
    shape, classes = (1, 8, 8), 10
    profile = Profile(samples=100, input_shape=shape, classes=classes)
    device.link = Link(address, device, name=name, secret=store.identity(), profile=lambda: profile)
    await device.link.run()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
