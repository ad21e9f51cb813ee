"""Report, profile and heartbeat: what a device tells the server; plain data, no protobuf. Unknown is None, never 0."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names in annotations only: the idle daemon imports this file and has no use for numpy
    from pleat.exchange.order import OrderId, Payload


class Outcome(str, Enum):
    DONE = "done"
    REFUSED = "refused"  # would not fit, or does not understand: `reason` has the numbers
    KILLED = "killed"  # the kernel killed the trainer (out of memory)
    FAILED = "failed"  # an error while training: `reason`
    ABORTED = "aborted"  # cancelled or the daemon was stopped


@dataclass(frozen=True)
class Seconds:
    """Where the order's wall time went, in seconds. `up` is known only after sending: the link fills it in."""

    wait: float = 0.0
    down: float = 0.0
    build: float = 0.0
    train: float = 0.0
    encode: float = 0.0
    up: float = 0.0


@dataclass(frozen=True)
class Measured:
    """One timed size of a MEASURE order: median seconds per optimiser step and the peak memory while stepping."""

    step_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Report:
    order_id: OrderId
    device: str
    outcome: Outcome = Outcome.DONE
    reason: str = ""
    payloads: tuple[Payload, ...] = ()
    samples: int = 0  # samples of the training shard (the weight in the average)
    labels: tuple[int, ...] = ()  # classes present in the shard
    metrics: Mapping[str, float] = field(default_factory=dict)  # "loss"; "correct", "scored" before training
    seconds: Seconds = Seconds()
    peak_bytes: int | None = None  # highest resident memory of daemon + trainer while the order ran
    measured: tuple[Measured, ...] = ()
    sensors: Mapping[str, float] = field(default_factory=dict)  # celsius, throttled, hertz: what the board tells


@dataclass(frozen=True)
class Budgets:
    """Hard limits a device's owner set, None = none: bytes of memory, seconds a round, bytes up and down a round."""

    memory_bytes: int | None = None
    seconds: float | None = None
    upload_bytes: int | None = None
    download_bytes: int | None = None


@dataclass(frozen=True)
class Profile:
    """What a device is, told once in its hello."""

    board: str = ""
    machine: str = ""  # architecture, such as aarch64
    system: str = ""
    python: str = ""
    torch: str = ""
    cores: float | None = None  # after container quotas
    memory_bytes: int | None = None  # after cgroup limits
    accelerator: str = ""
    samples: int = 0
    input_shape: tuple[int, ...] = ()
    classes: int = 0  # 1 + the largest label of the shard
    holdout: int = 0
    budgets: Budgets = Budgets()


@dataclass(frozen=True)
class Heartbeat:
    load: float | None = None  # 1-minute load average
    free_bytes: int | None = None
    celsius: float | None = None
    throttled: bool | None = None
    hertz: float | None = None
    state: str = "idle"  # idle, training, sending
