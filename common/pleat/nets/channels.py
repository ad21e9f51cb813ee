"""Channels: which channels of a net are coupled, found by union-find over variables. No torch.

Every axis of every value in a net carries a *label*: an ordered list of parts (variable, repeat), as in the ModelMap. A
variable is a set of channels that live or die together. Rules join variables where the net couples channels (an add),
make them coarser where only runs of channels may go (a grouped convolution), give them a step (a group norm), and
freeze them where cutting would be wrong. When in doubt a variable is frozen with a reason: never cut is always correct.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pleat.modelmap import Axis, Group, Segment

FIXED = -1  # the variable of channels that nothing may cut and nobody need name


@dataclass(frozen=True)
class Part:
    """`count` channels of `variable` in order, each standing `repeat` times in a row."""

    variable: int
    count: int
    repeat: int = 1

    @property
    def length(self) -> int:
        return self.count * self.repeat


Label = tuple[Part, ...]
Labels = tuple[Label, ...]


def fixed(length: int) -> Label:
    """A label of `length` places that cannot be cut."""
    return (Part(FIXED, 1, length),)


def length(label: Label) -> int:
    """Places on an axis with this label."""
    return sum(part.length for part in label)


def repeated(label: Label, times: int) -> Label:
    """The label of an axis on which every place of `label` stands `times` times in a row."""
    return tuple(Part(p.variable, p.count, p.repeat * times) for p in label)


@dataclass
class _Variable:
    size: int
    name: str
    step: int = 1
    reason: str = ""  # frozen, and why; "" = may be cut
    parent: int = FIXED  # joined into another variable ...
    factor: int = 1  # ... whose channels each stand for `factor` of this one's


class Channels:
    """All variables of one net."""

    def __init__(self) -> None:
        self._variables: list[_Variable] = []
        self._names: dict[str, int] = {}

    def new(self, size: int, name: str) -> Label:
        """A label of `size` fresh channels; `name` becomes the group's unless it joins an older one. A name that is
        taken gets a number."""
        self._names[name] = taken = self._names.get(name, 0) + 1
        self._variables.append(_Variable(size, name if taken == 1 else f"{name}#{taken}"))
        return (Part(len(self._variables) - 1, size),)

    def resolve(self, label: Label) -> Label:
        """The same label in terms of the variables that stand for their sets now; neighbouring fixed places merged."""
        out: list[Part] = []
        for part in label:
            part = self._part(part)
            if part.variable == FIXED and out and out[-1].variable == FIXED:
                out[-1] = Part(FIXED, 1, out[-1].length + part.length)
            else:
                out.append(part)
        return tuple(out)

    def _part(self, part: Part) -> Part:
        if part.variable == FIXED:
            return Part(FIXED, 1, part.length)
        root, factor = part.variable, 1
        while self._variables[root].parent != FIXED:
            factor *= self._variables[root].factor
            root = self._variables[root].parent
        return Part(root, part.count // factor, part.repeat * factor)

    def is_fixed(self, label: Label) -> bool:
        """Whether nothing on this axis can ever be cut for it names no variable."""
        return all(part.variable == FIXED for part in label)

    def freeze(self, label: Label, reason: str) -> None:
        """Never cut what stands on this axis. The first reason given to a variable is kept."""
        for part in self.resolve(label):
            if part.variable != FIXED and not self._variables[part.variable].reason:
                self._variables[part.variable].reason = reason

    def join(self, left: Label, right: Label, reason: str) -> Label:
        """Couple two axes of equal length place by place; what cannot be coupled is frozen for `reason`."""
        left, right = self.resolve(left), self.resolve(right)
        if len(left) != len(right) or any(a.length != b.length for a, b in zip(left, right, strict=False)):
            self.freeze(left, reason)
            self.freeze(right, reason)
            return left
        for a, b in zip(left, right, strict=True):
            self._join_parts(self._part(a), self._part(b), reason)
        return self.resolve(left)

    def _join_parts(self, a: Part, b: Part, reason: str) -> None:
        if a.variable == b.variable:
            if a.variable != FIXED and a.repeat != b.repeat:
                self.freeze((a,), reason)
            return
        if FIXED in (a.variable, b.variable):
            self.freeze((a, b), reason)
            return
        fine, coarse = (a, b) if a.repeat <= b.repeat else (b, a)
        if coarse.repeat % fine.repeat:
            self.freeze((a, b), reason)
            return
        if coarse.repeat > fine.repeat:
            fine = self._coarsen(fine, coarse.repeat // fine.repeat)
        self._unite(fine.variable, coarse.variable)

    def _unite(self, left: int, right: int) -> None:
        root, other = sorted((left, right))
        into, gone = self._variables[root], self._variables[other]
        into.step = math.lcm(into.step, gone.step)
        into.reason = into.reason or gone.reason
        gone.parent = root

    def _coarsen(self, part: Part, factor: int) -> Part:
        """Let runs of `factor` channels of a root variable be one channel each."""
        old = self._variables[part.variable]
        step = math.lcm(old.step, factor) // factor
        self._variables.append(_Variable(old.size // factor, old.name, step, old.reason))
        old.parent, old.factor = len(self._variables) - 1, factor
        return self._part(part)

    def in_runs(self, label: Label, run: int, reason: str) -> Label | None:
        """Make whole runs of `run` places the least that may be cut from this axis, and return the label of the axis on
        which every run is one place; None, and all frozen, where runs and channels do not line up."""
        label = self.resolve(label)
        if any(p.length % run or (p.repeat % run and run % p.repeat) for p in label):
            self.freeze(label, reason)
            return None
        out = []
        for part in label:
            now = self._part(part)  # an earlier turn may have made this variable coarser already
            if now.variable != FIXED and now.repeat < run:
                now = self._coarsen(now, run // now.repeat)
            out.append(Part(now.variable, now.count, now.repeat // run))
        return self.resolve(tuple(out))

    def in_steps(self, label: Label, run: int, reason: str) -> None:
        """Let kept channels on this axis be whole runs of `run` places (a group norm's groups); like `in_runs`, but the
        channels stay single and only their kept number is bound."""
        label = self.resolve(label)
        if any(p.length % run or (p.repeat % run and run % p.repeat) for p in label):
            self.freeze(label, reason)
            return
        for part in label:
            if part.variable != FIXED and part.repeat < run:
                variable = self._variables[part.variable]
                variable.step = math.lcm(variable.step, run // part.repeat)

    def axis(self, label: Label) -> Axis:
        """The label as a ModelMap's axis."""
        return tuple(Segment("" if p.variable == FIXED else self.name(p), p.repeat) for p in self.resolve(label))

    def name(self, part: Part) -> str:
        """Name of the group that `part` belongs to."""
        return self._variables[self._part(part).variable].name

    def groups(self, labels: list[Label]) -> tuple[Group, ...]:
        """The groups on these axes, sorted by name. A group of one channel cannot shrink and is frozen."""
        roots = {p.variable for label in labels for p in self.resolve(label)} - {FIXED}
        return tuple(sorted((self._group(self._variables[r]) for r in roots), key=lambda g: g.name))

    def _group(self, variable: _Variable) -> Group:
        reason = variable.reason
        if not reason and variable.size // variable.step < 2:
            reason = f"its {variable.size} channels cannot be divided"
        role = "frozen" if reason else "hidden"
        return Group(variable.name, variable.size, variable.step, role, reason=reason)  # type: ignore[arg-type]
