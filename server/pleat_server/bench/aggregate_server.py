"""The server half of the memory figure: reports from a socket into the spool, checked, committed, folded, closed.

`python -m pleat_server.bench.aggregate_server PORT REPORTS FOLDER` connects AT_ONCE times to PORT, says "idle", and on
a line of input takes REPORTS reports, folds them as a round does, moves the model, and says "folded".
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pleat.codec.coding import build
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Payload, Return
from pleat.exchange.report import Report
from pleat.exchange.wire import report_to_bytes
from pleat.modelmap import Group, ModelMap, Segment, TensorSpec
from pleat.params import Params
from pleat.recipes.recipe import Recipe
from pleat_server.closing import advance
from pleat_server.desk import check_report
from pleat_server.folding import fold
from pleat_server.heap import share_arenas
from pleat_server.keep.spool import Spool
from pleat_server.round import Setup
from pleat_server.state import State

AT_ONCE = 4
CHUNK = 256 << 10
RUN = "bench"
_HEAD = struct.Struct("<IQ")


def _mlp(*sizes: int) -> ModelMap:
    """A multilayer perceptron's map: one group a hidden layer."""
    axes = [
        (Segment("", sizes[0]),),
        *((Segment(f"h{i}"),) for i in range(1, len(sizes) - 1)),
        (Segment("", sizes[-1]),),
    ]
    tensors = [TensorSpec(f"{i}.bias", (sizes[i],), (axes[i],)) for i in range(1, len(sizes))]
    tensors += [
        TensorSpec(f"{i}.weight", (sizes[i], sizes[i - 1]), (axes[i], axes[i - 1]), 1) for i in range(1, len(sizes))
    ]
    groups = tuple(Group(f"h{i}", sizes[i]) for i in range(1, len(sizes) - 1))
    return ModelMap(tuple(sorted(tensors, key=lambda t: t.name)), groups)


MODEL = _mlp(784, 704, 576, 64, 26)  # 1.0 M parameters
MODEL_BYTES = 4 * sum(int(np.prod(t.shape)) for t in MODEL.tensors)
NET = NetSpec("", {}, MODEL.digest)


def order(rank: int) -> Order:
    """The order that report `rank` answers."""
    back = (Return("update", "raw"),)
    return Order(OrderId(RUN, 1, rank), f"device-{rank}", Kind.TRAIN, NET, returns=back, seed=rank)


def report_bytes(rank: int, update: Params) -> bytes:
    """A dense report, as a device would send it."""
    asked, coding = order(rank), build("raw")
    context = Context(MODEL, WHOLE, asked.id.round, asked.seed)
    frame, _ = coding.encode(update, coding.init(context), context)
    return report_to_bytes(
        Report(asked.id, asked.device, payloads=(Payload("update", "raw", frame),), samples=100 + rank)
    )


def send_report(line: socket.socket, rank: int, data: bytes) -> None:
    """Send one report and wait until it is acknowledged."""
    line.sendall(_HEAD.pack(rank, len(data)))
    line.sendall(data)
    if line.recv(1) != b"k":
        raise ConnectionError(f"report {rank} was not acknowledged")


def _received(line: socket.socket, size: int, buffer: memoryview) -> Iterator[memoryview]:
    while size:
        got = line.recv_into(buffer[: min(size, len(buffer))])
        if not got:
            return
        size -= got
        yield buffer[:got]


def take(line: socket.socket, reports: int, spool: Spool, desk: threading.Lock) -> None:
    """Reports of one connection: spooled as they arrive, checked one at a time, made durable, acknowledged."""
    buffer = memoryview(bytearray(CHUNK))
    for _ in range(reports):
        rank, size = _HEAD.unpack(line.recv(_HEAD.size, socket.MSG_WAITALL))
        asked = order(rank)
        with spool.writer(asked.id, size) as writer:
            for piece in _received(line, size, buffer):
                writer.write(piece)
            with desk:
                check_report(MODEL, asked, asked.device, writer.data())
            writer.commit()
        line.sendall(b"k")


def close_round(spool: Spool, state: State, reports: int) -> State:
    """Fold what was spooled, value it, and move the model."""
    setup = Setup(MODEL, NET, Recipe(), ())
    folded = fold(setup, state, [order(k) for k in range(reports)], spool.read, spool.ids(RUN, 1))
    return advance(setup, state, folded)


def main(port: int, reports: int, folder: Path) -> None:
    share_arenas()  # as `pleat serve` does
    state = State(RUN, 0, {t.name: np.ones(t.shape, np.float32) for t in MODEL.tensors})
    spool, desk = Spool(folder), threading.Lock()
    lines = [socket.create_connection(("127.0.0.1", port)) for _ in range(AT_ONCE)]
    print("idle", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            for taken in [pool.submit(take, line, reports // AT_ONCE, spool, desk) for line in lines]:
                taken.result()
        except BaseException:
            for line in lines:  # ends the other threads, and the devices
                line.shutdown(socket.SHUT_RDWR)
            raise
    close_round(spool, state, reports)
    print("folded", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
