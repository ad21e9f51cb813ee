"""A real device for tests: `pleat-client run` as a process of its own, and a real server end that gives it orders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeVar

import numpy as np

from pleat.codec.coding import build as coding
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Payload, Return, Work
from pleat.exchange.report import Report
from pleat.exchange.wire import report_from_bytes
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat_client.probe import memory
from pleat_client.store import Store
from pleat_server.carrier import Event, Joined, Reported
from pleat_server.keep.spool import Spool
from pleat_server.link.servicer import GrpcCarrier
from support.fleet import RUN, OpenDesk

SHAPE, CLASSES = (1, 8, 8), 10
PATIENCE_S = 60.0
ENDLESS = 1_000_000  # epochs
Kind_ = TypeVar("Kind_", bound=Event)


def write_shard(path: Path, samples: int = 40) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, *SHAPE)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(samples, dtype=np.int64) % CLASSES)
    return path


def net() -> NetSpec:
    return spec("mlp", SHAPE, CLASSES)


def train_order(round: int, epochs: int = 1, coded: str = "raw", net_: NetSpec | None = None, memory: int = 0) -> Order:
    """Train the whole MLP on device "a"."""
    chosen = net() if net_ is None else net_
    model = model_map(net())
    context = Context(model, WHOLE, round, 0, 1)
    transform = coding("raw")
    frame, _ = transform.encode(initial(net(), 0), transform.init(context), context)
    return Order(
        OrderId(RUN, round, 0),
        "a",
        Kind.TRAIN,
        chosen,
        work=Work(epochs=epochs, batch=8, rate=0.01),
        payloads=(Payload("model", "raw", frame, 1),),
        returns=(Return("update", coded),),
        memory_bytes=memory,
    )


class Server:
    """The server's end: sends orders, keeps what comes."""

    def __init__(self, folder: Path, listen: str = "127.0.0.1:0") -> None:
        self.spool = Spool(folder / "spool")
        self.desk = OpenDesk(self.spool)
        self.carrier = GrpcCarrier(listen, self.spool, self.desk, RUN)
        self.address = self.carrier.start()
        self._events: list[Event] = []

    def send(self, order: Order) -> None:
        self.desk.open[order.id] = order.device
        assert self.carrier.send(order)

    def await_(self, kind: type[Kind_]) -> Kind_:
        """The next event of a kind; those before it are forgotten."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            while self._events:
                event = self._events.pop(0)
                if isinstance(event, kind):
                    return event
            self._events += self.carrier.poll(1.0)
        raise TimeoutError(f"no {kind.__name__} within {PATIENCE_S} s")

    def reported(self, order: Order) -> Report:
        while self.await_(Reported).order_id != order.id:
            pass
        return report_from_bytes(self.spool.read(order.id))

    def done(self, order: Order) -> Report:
        self.send(order)
        return self.reported(order)

    def close(self) -> None:
        self.carrier.close()


class Device:
    """One `pleat-client run`, with its state and its standard error under `folder`."""

    def __init__(self, folder: Path, address: str, *more: str, shard: Path | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.state = folder, folder / "state"
        self.shard = shard or folder / "shard.npz"
        if shard is None and not self.shard.exists():
            write_shard(self.shard)
        words = ["run", "--server", address, "--data", str(self.shard), "--name", "a", "--state", str(self.state)]
        with (folder / "stderr").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pleat_client.cli", *words, "--threads", "1", *more],
                stdin=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def children(self) -> list[int]:
        return memory.tree(self.process.pid)[1:]

    def unanswered(self) -> list[OrderId]:
        return [order_id for order_id, _ in Store(self.state).staged()]

    def until_training(self) -> int:
        """Wait until the child burns processor time on an order; its process id."""
        pid, before = 0, 0.0
        for _ in waiting():
            for pid in self.children():
                spent = _cpu_s(pid)
                if before and spent > before + 0.2 and '"state":"training"' in (self.state / "status.json").read_text():
                    return pid
                before = before or spent
        return pid

    def ended(self) -> int:
        """Wait until it has ended by itself; its exit status."""
        return self.process.wait(PATIENCE_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        return self.ended()


class Lab:
    """Servers and devices under one folder, all of them ended at the end, however that comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._servers: list[Server] = []
        self._devices: list[Device] = []

    def server(self, listen: str = "127.0.0.1:0") -> Server:
        self._servers.append(Server(self.folder / "server", listen))
        return self._servers[-1]

    def device(self, address: str, *more: str, shard: Path | None = None) -> Device:
        self._devices.append(Device(self.folder / "device", address, *more, shard=shard))
        return self._devices[-1]

    def joined(self) -> tuple[Server, Device]:
        """A server and a device that has joined it."""
        server = self.server()
        device = self.device(server.address)
        server.await_(Joined)
        return server, device

    def close(self) -> None:
        for device in self._devices:
            device.stop(signal.SIGKILL)
        for server in self._servers:
            server.close()


def waiting():  # type: ignore[no-untyped-def]
    """Turns of a wait for something that tells nobody when it happens, such as another process's state."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        yield
        time.sleep(0.01)
    raise TimeoutError(f"it did not happen within {PATIENCE_S} s")


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
