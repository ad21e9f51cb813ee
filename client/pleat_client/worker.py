"""The trainer child: the process that holds torch. Reads requests on standard input, answers on standard output.

    python -m pleat_client.worker --store DIR --data SHARD.npz [--holdout 0.1]

One order at a time: recall the state, run the task, stage report and next state in the store, and only then say so.
A second thread listens for `Cancel` and `Stop`, which end the training within a step; the end of the input means that
the daemon is gone, and the child leaves without a word: the order is asked for again. Whatever goes wrong with an order
is a report or a `Failed`, and the child lives on; only a broken pipe or a broken shard ends it.
"""

from __future__ import annotations

import argparse
import os
import queue
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch

from pleat.elastic import size
from pleat.errors import LocalError, PleatError
from pleat.exchange.order import Kind, Order
from pleat.exchange.report import Budgets, Outcome, Report, Seconds
from pleat.exchange.wire import order_from_bytes, report_to_bytes
from pleat.nets.trace import model_map
from pleat.shard import Shard, read, split_holdout
from pleat_client import accelerator, pipe, task, thrift
from pleat_client.config import ACCELERATORS
from pleat_client.probe import board, memory
from pleat_client.probe.sensors import Sample, interval, sample
from pleat_client.state import DeviceState, limited, recall, residual_size, to_bytes
from pleat_client.store import Store

RESIDUAL_CAP = 64 << 20  # bytes of residual kept on disk
TELL_EVERY_S = 0.5  # progress
SMALL_STEP = 3e8  # multiply-adds of an optimiser step below which a second thread costs more than it brings
HOLDOUT_SEED = 0  # the same samples are held out at every start


@dataclass
class Inbox:
    """What the listening thread has read: orders to do, and whether to stop the one being done."""

    orders: queue.Queue[pipe.Train | None] = field(default_factory=queue.Queue)
    leaving: threading.Event = field(default_factory=threading.Event)
    orphaned: threading.Event = field(default_factory=threading.Event)  # leaving, since the daemon is gone
    cancelled: set[str] = field(default_factory=set)  # names of orders; "" = whatever runs

    def listen(self, stream: BinaryIO) -> None:
        """Read until the daemon stops or goes away."""
        stopped = False
        try:
            while not stopped and (request := pipe.read_request(stream)) is not None:
                stopped = isinstance(request, pipe.Stop)
                if isinstance(request, pipe.Cancel):
                    self.cancelled.add(request.order)
                elif isinstance(request, pipe.Train):
                    self.orders.put(request)
                del request  # an order holds a model
        except PleatError as error:
            print(error, file=sys.stderr)
        if not stopped:
            self.orphaned.set()
        self.leaving.set()
        self.orders.put(None)

    def stops(self, order: str) -> bool:
        return self.leaving.is_set() or order in self.cancelled or "" in self.cancelled


@dataclass
class Worker:
    store: Store
    shard: Shard
    holdout: Shard
    inbox: Inbox
    out: BinaryIO
    device: str = accelerator.CPU
    samples: list[Sample] = field(default_factory=list)  # of the board's sensors, for the order being done

    def answer(self, message: pipe.Message) -> None:
        self.out.write(pipe.encode(message))
        self.out.flush()

    def serve(self) -> None:
        """Answer requests until the daemon stops or goes away."""
        shape = self.shard.input_shape
        self.answer(pipe.Ready(len(self.shard), len(self.holdout), shape, self._classes()))
        while self._next():
            accelerator.give_back(self.device)
            thrift.give_back()

    def _next(self) -> bool:
        request = self.inbox.orders.get()
        if request is None:
            return False
        try:
            order = order_from_bytes(request.order)
        except PleatError as error:
            self.answer(pipe.Failed("", str(error)))
            return True
        request = msgspec.structs.replace(request, order=b"")  # the order holds its own copy
        self.do(order, request)
        return True

    def _classes(self) -> int:
        return max(self.shard.classes, self.holdout.classes)

    def do(self, order: Order, request: pipe.Train) -> None:
        """One order, from its bytes to a staged report."""
        name = str(order.id)
        try:
            self.inbox.cancelled.discard("")
            self.answer(pipe.Started(name))
            self.answer(self.carry_out(order, request))
        except PleatError as error:
            self.answer(pipe.Failed(name, str(error)))
        finally:
            self.inbox.cancelled.discard(name)

    def carry_out(self, order: Order, request: pipe.Train) -> pipe.Staged:
        """The order's staged report, made now unless it was before. Raises PleatError where it cannot be kept."""
        return self._staged_already(order) or self._carried_out(order, request)

    def _staged_already(self, order: Order) -> pipe.Staged | None:
        """An order asked for again after its report was staged is not done twice."""
        for order_id, path in self.store.staged():
            if order_id == order.id:
                return _staged(order, path, Outcome.DONE, "staged before", None)
        return None

    def _carried_out(self, order: Order, request: pipe.Train) -> pipe.Staged:
        self.store.tidy(order.id.run)
        before, back = recall(self.store.past(order.id.run))
        report, after = self.run(order, before, request)
        if report.outcome is Outcome.ABORTED and self.inbox.orphaned.is_set():
            raise LocalError("the daemon is gone")  # nobody asked to abort
        kept = None if after is before else limited(after, RESIDUAL_CAP)
        state = None if kept is None else to_bytes(kept)
        path = self.store.stage(order.id, report_to_bytes(report), state)
        if state is not None:
            self.store.forget_returned(back)
        while self.store.notes:
            print(self.store.notes.pop(0), file=sys.stderr)
        staged = _staged(order, path, report.outcome, report.reason, report.peak_bytes)
        if kept is None or state is None:
            return staged
        residual = pipe.Residual(len(state), *residual_size(kept))
        width = size.width(model_map(order.net), order.selection) if order.kind is Kind.TRAIN else None
        return msgspec.structs.replace(staged, width=width, residual=residual)

    def run(self, order: Order, state: DeviceState, request: pipe.Train) -> tuple[Report, DeviceState]:
        """One order from a given state, with this machine's sensors; nothing is staged."""
        torch.set_num_threads(threads(order, request.threads))
        self.samples = [sample()]
        try:
            return task.run(
                order,
                state,
                self.shard,
                self.holdout,
                self._sensors(request.daemon_bytes),
                Budgets(memory_bytes=request.memory_bytes),
                Seconds(wait=request.wait_s, down=request.down_s),
                self._tick(str(order.id)),
            )
        except Exception as error:  # whatever a net, a driver or a lack of memory raises: the server is told
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"[:500]
            outcome = Outcome.KILLED if accelerator.ran_out(error) else Outcome.FAILED  # the former: offer less
            return Report(order.id, order.device, outcome, reason, samples=len(self.shard)), state

    def _sensors(self, daemon_bytes: int) -> task.Sensors:
        def watch_peak() -> task.Peak:
            watch = memory.Peak((os.getpid(),))
            accelerator.watch_peak(self.device)
            return lambda: _plus(watch.stop(), daemon_bytes + accelerator.peak_bytes(self.device))

        return task.Sensors(
            clock=time.perf_counter,
            watch_peak=watch_peak,
            resident=lambda: _plus(memory.rss_bytes(), daemon_bytes + accelerator.reserved_bytes(self.device)),
            free=lambda: accelerator.free_bytes(self.device, memory.free_bytes()),
            readings=lambda: interval([*self.samples, sample()]),
            stepping=thrift.stepping,
            device=self.device,
        )

    def _tick(self, name: str) -> task.Tick:
        told = time.monotonic()

        def tick(done: float, loss: float | None) -> None:
            nonlocal told
            if self.inbox.stops(name):
                raise task.Cancelled("cancelled")
            if len(self.samples) == 1 and done >= 0.5:
                self.samples.append(sample())
            if time.monotonic() - told >= TELL_EVERY_S:
                told = time.monotonic()
                self.answer(pipe.Progress(name, done, loss))

        return tick


def _plus(own: int | None, more: int) -> int | None:
    return None if own is None else own + more


def _staged(order: Order, path: Path, outcome: Outcome, reason: str, peak: int | None) -> pipe.Staged:
    return pipe.Staged(order.id.run, order.id.round, order.id.rank, str(path), outcome.value, reason, peak)


def threads(order: Order, asked: int) -> int:
    """Threads for an order: as asked, else all cores it may use, or one where a step is too small to share."""
    if asked > 0:
        return asked
    sizes = order.nested if order.kind is Kind.MEASURE else (order.selection,)
    model = model_map(order.net)
    largest = max((size.macs(model, s) for s in sizes), default=0)
    return 1 if 3 * largest * order.work.batch < SMALL_STEP else board.threads()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="pleat_client.worker", description="The trainer child of pleat-client.")
    parser.add_argument("--store", type=Path, required=True, help="state folder of the device")
    parser.add_argument("--data", type=Path, required=True, help="shard: .npz with x and y")
    parser.add_argument("--holdout", type=float, default=0.1, help="share of the shard kept for scoring (0.1)")
    parser.add_argument("--accelerator", choices=ACCELERATORS, default="auto", help="where to train (auto)")
    given = parser.parse_args(arguments)
    thrift.map_large_buffers()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a stray print must not end up between frames
    try:
        train, held = split_holdout(read(given.data), given.holdout, HOLDOUT_SEED)
        device = accelerator.pick(given.accelerator)
    except PleatError as error:
        out.write(pipe.encode(pipe.Failed("", str(error))))
        out.flush()
        return error.exit_code
    inbox = Inbox()
    threading.Thread(target=inbox.listen, args=(sys.stdin.buffer,), name="pleat-inbox", daemon=True).start()
    try:
        Worker(Store(given.store), train, held, inbox, out, device).serve()
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
