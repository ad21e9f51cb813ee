"""Channels: which channels of a net are coupled, found by union-find over variables. No torch.

Every axis of every value in a net carries a *label*: an ordered list of parts (variable, repeat), as in the ModelMap. A
variable is a set of channels that live or die together. Rules join variables where the net couples channels (an add),
split them where the net takes channels apart (a chunk), make them coarser where only runs of channels may go (a grouped
convolution), give them a step (a group norm), and freeze them where cutting would be wrong. When in doubt a variable is
frozen with a reason: never cut is always correct.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

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
    pieces: tuple[int, ...] = ()  # taken apart into these variables, one after another


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
        for part in (now for old in label for now in self._now(old)):
            if part.variable == FIXED and out and out[-1].variable == FIXED:
                out[-1] = Part(FIXED, 1, out[-1].length + part.length)
            else:
                out.append(part)
        return tuple(out)

    def _now(self, part: Part) -> Iterator[Part]:
        """The part in terms of roots: variables neither joined into another nor taken apart."""
        if part.variable == FIXED:
            yield Part(FIXED, 1, part.length)
            return
        variable = self._variables[part.variable]
        if variable.pieces:
            for piece in variable.pieces:
                yield from self._now(Part(piece, self._variables[piece].size, part.repeat))
        elif variable.parent != FIXED:
            factor = variable.factor
            yield from self._now(Part(variable.parent, part.count // factor, part.repeat * factor))
        else:
            yield part

    def _part(self, part: Part) -> Part:
        """`part` now, where it is certain to be one part still."""
        (now,) = self._now(part)
        return now

    def is_fixed(self, label: Label) -> bool:
        """Whether nothing on this axis can ever be cut for it names no variable."""
        return all(part.variable == FIXED for part in label)

    def may_shrink(self, label: Label) -> bool:
        """Whether something on this axis may be cut, as far as is known."""
        return any(p.variable != FIXED and not self._variables[p.variable].reason for p in self.resolve(label))

    def freeze(self, label: Label, reason: str) -> None:
        """Never cut what stands on this axis. The first reason given to a variable is kept."""
        for part in self.resolve(label):
            if part.variable != FIXED and not self._variables[part.variable].reason:
                self._variables[part.variable].reason = reason

    def join(self, left: Label, right: Label, reason: str) -> Label:
        """Couple two axes of equal length place by place; what cannot be coupled is frozen for `reason`."""
        pairs = self._pairs(left, right)
        if pairs is None:
            self.freeze(left, reason)
            self.freeze(right, reason)
            return self.resolve(left)
        for a, b in pairs:
            self._join_parts(self._part(a), self._part(b), reason)
        return self.resolve(left)

    def _pairs(self, left: Label, right: Label) -> list[tuple[Part, Part]] | None:
        """Both axes as parts of pairwise equal lengths; None where their channels do not line up."""
        if length(left) != length(right):
            return None
        ones, others = list(self.resolve(left)), list(self.resolve(right))
        out: list[tuple[Part, Part]] = []
        while len(out) < len(ones):
            place = len(out)
            a, b = ones[place], others[place]
            if a.length == b.length:
                out.append((a, b))
                continue
            longer, at = (ones, b.length) if a.length > b.length else (others, a.length)
            part = longer[place]
            if part.variable == FIXED:  # no variable to take apart: the label itself is
                longer[place : place + 1] = [Part(FIXED, 1, at), Part(FIXED, 1, part.length - at)]
            else:
                return self._pairs(left, right) if self._cut_at(part, at) else None
        return out

    def _cut_at(self, part: Part, at: int) -> bool:
        """Take the root variable of `part` apart after `at` of the part's places; whether that can be done."""
        old = self._variables[part.variable]
        first = at // part.repeat
        if at % part.repeat or first % old.step:
            return False
        for size, name in ((first, f"{old.name}[:{first}]"), (old.size - first, f"{old.name}[{first}:]")):
            self._variables.append(_Variable(size, name, old.step, old.reason))
        old.pieces = (len(self._variables) - 2, len(self._variables) - 1)
        return True

    def between(self, label: Label, start: int, stop: int, reason: str) -> Label:
        """The label of the places start..stop of an axis; what cannot be taken apart is frozen for `reason`."""
        for at in (start, stop):
            place = 0
            for part in self.resolve(label):
                inside = part.variable != FIXED and place < at < place + part.length
                if inside and not self._cut_at(part, at - place):
                    self.freeze(label, reason)
                    return fixed(stop - start)
                place += part.length
        place = 0
        out: list[Part] = []
        for part in self.resolve(label):
            low, high = max(place, start), min(place + part.length, stop)
            if low < high:
                out.append(part if part.variable != FIXED else Part(FIXED, 1, high - low))
            place += part.length
        return self.resolve(tuple(out))

    def grows_alike(self, left: Label, right: Label) -> bool:
        """Whether one axis is so many times as long as the other, however their channels are cut."""
        ones, others = self._weights(left), self._weights(right)
        return ones.keys() == others.keys() and len({Fraction(ones[v], others[v]) for v in ones}) <= 1

    def _weights(self, label: Label) -> dict[int, int]:
        """Variable that may be cut -> places that each of its channels takes; FIXED -> places that stay."""
        out: dict[int, int] = {}
        for part in self.resolve(label):
            fixed_part = part.variable == FIXED or bool(self._variables[part.variable].reason)
            key, weight = (FIXED, part.length) if fixed_part else (part.variable, part.repeat)
            out[key] = out.get(key, 0) + weight
        return out

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
