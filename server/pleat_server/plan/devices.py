"""The device-budget table: what every device is, may use, was measured at and was last given. Pure and frozen.

Each operation returns the next table. The table lives in the checkpoint through `to_plain`; what may train what is
decided from it by `budgets.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pleat.exchange.report import Budgets, Heartbeat, Measured, Profile, Seconds
from pleat_server.plan.bandwidth import Link
from pleat_server.plan.catalogue import Row
from pleat_server.plan.cost import CostFit, work

EMPTY_BYTES = 320 << 20  # daemon and trainer without a model, where nobody measured them: torch alone takes 220 MiB
VALUE_BLEND = 0.05  # of a round's data value in the average
RECENT = 10  # rounds of rows and time errors kept
REFUSED_ROUNDS, KILLED_ROUNDS = 5, 20  # how long a cap holds at first; each further strike doubles it
LONGEST_ROUNDS = 1 << 20


@dataclass(frozen=True)
class Device:
    """`cap_bytes`: a row must need less than this above the empty trainer, learnt from refusals and kills, until round
    `cap_until`. `errors`: ln(observed / predicted seconds) of the last rounds."""

    name: str
    identity: str = ""  # hex
    profile: Profile = field(default_factory=Profile)
    here: bool = True
    cost: CostFit | None = None
    link: Link = field(default_factory=Link)
    base_bytes: int | None = None  # resident memory of daemon and trainer without a model; None: not measured
    cap_bytes: int | None = None
    cap_until: int = 0
    strikes: int = 0
    value: float = 1.0  # average data value, in [0, 1]
    rows: tuple[int, ...] = ()
    errors: tuple[float, ...] = ()
    idle: str = ""
    heartbeat: Heartbeat | None = None

    @property
    def budgets(self) -> Budgets:
        return self.profile.budgets

    @property
    def memory_limit(self) -> float:
        """Bytes that daemon and trainer may use together: the owner's budget or what the board has; inf if unknown."""
        limits = (self.budgets.memory_bytes, self.profile.memory_bytes)
        return float(min((m for m in limits if m is not None), default=math.inf))

    @property
    def empty_bytes(self) -> int:
        return EMPTY_BYTES if self.base_bytes is None else self.base_bytes

    def cap(self, number: int) -> float:
        """The learnt cap that holds in round `number`, inf if none."""
        return float(self.cap_bytes) if self.cap_bytes is not None and number <= self.cap_until else math.inf


@dataclass(frozen=True)
class Table:
    devices: Mapping[str, Device] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Device:
        return self.devices[name]

    def __contains__(self, name: object) -> bool:
        return name in self.devices

    def _with(self, device: Device) -> Table:
        return Table({**self.devices, device.name: device})

    def join(self, name: str, identity: str, profile: Profile) -> Table:
        """A device is here. What was learnt stays unless another device took the name; new limits lift caps."""
        old = self.devices.get(name)
        if old is None or old.identity != identity:
            return self._with(Device(name, identity, profile))
        new = replace(old, profile=profile, here=True, idle="")
        return self._with(new if new.memory_limit == old.memory_limit else replace(new, cap_bytes=None, strikes=0))

    def leave(self, name: str) -> Table:
        return self._with(replace(self[name], here=False)) if name in self else self

    def pulse(self, name: str, heartbeat: Heartbeat) -> Table:
        return self._with(replace(self[name], heartbeat=heartbeat)) if name in self else self

    def idled(self, reasons: Mapping[str, str], names: Sequence[str]) -> Table:
        """After planning for `names`: `reasons` tell who has nothing to do, the others have."""
        changed = {n: replace(self[n], idle=reasons.get(n, "")) for n in names if n in self}
        return Table({**self.devices, **changed})

    def measured(self, name: str, sizes: Sequence[tuple[Row, Measured]], batch: int) -> Table:
        """After a MEASURE order that timed single passes of `sizes`: a first cost fit and the empty memory."""
        device = self[name]
        fit = CostFit.from_steps([(r.own_macs * batch / 1e9, m.step_s) for r, m in sizes])
        bases = [m.peak_bytes - r.memory_bytes for r, m in sizes if m.peak_bytes > 0]
        base = max(0, max(bases)) if bases else device.base_bytes
        return self._with(replace(device, cost=fit or device.cost, base_bytes=base))

    def refused(self, name: str, row: Row, number: int) -> Table:
        """The device had not the memory for `row` in round `number`: it is offered less for a while."""
        return self._capped(name, row, number, REFUSED_ROUNDS)

    def killed(self, name: str, row: Row, number: int) -> Table:
        """The kernel killed the trainer on `row` in round `number`: the next row is smaller, for longer."""
        return self._capped(name, row, number, KILLED_ROUNDS)

    def _capped(self, name: str, row: Row, number: int, rounds: int) -> Table:
        device = self[name]
        cap = int(min(row.memory_bytes, device.cap(number)))
        until = number + min(LONGEST_ROUNDS, rounds << min(device.strikes, 20))
        return self._with(
            replace(device, cap_bytes=cap, cap_until=max(until, device.cap_until), strikes=device.strikes + 1)
        )

    def observed(
        self,
        name: str,
        row: Row,
        seconds: Seconds,
        *,
        samples: int,
        epochs: int,
        batch: int,
        up_bytes: int = 0,
        down_bytes: int = 0,
        peak_bytes: int | None = None,
        value: float | None = None,
        throttled: bool | None = None,
    ) -> Table:
        """A report came back: fit compute and link to the split timings, memory to the peak, average the data value."""
        device = self[name]
        compute, amount = seconds.build + seconds.train + seconds.encode, work(row, samples, epochs, batch)
        if device.cost is None:
            fit, errors = CostFit.from_order(compute, amount), device.errors
        else:
            fit = device.cost.observe(compute, amount, throttled)
            errors = (*device.errors[-(RECENT - 1) :], fit.last)
        known = value is not None and math.isfinite(value)
        return self._with(
            replace(
                device,
                cost=fit,
                errors=errors,
                link=device.link.observe((up_bytes, seconds.up), (down_bytes, seconds.down)),
                base_bytes=_base(device, row, peak_bytes),
                value=device.value + VALUE_BLEND * (min(1.0, max(0.0, value)) - device.value)
                if known and value is not None
                else device.value,
                rows=(*device.rows[-(RECENT - 1) :], row.index),
            )
        )

    def to_plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Table:
        return msgspec.convert(plain, Table)


def _base(device: Device, row: Row, peak_bytes: int | None) -> int | None:
    """The empty trainer's memory: up at once, down slowly, for too little kills and too much only wastes."""
    if peak_bytes is None or peak_bytes <= 0:
        return device.base_bytes
    seen = max(0, peak_bytes - row.memory_bytes)
    old = device.base_bytes
    return seen if old is None or seen > old else int(0.9 * old + 0.1 * seen)
