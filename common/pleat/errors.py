"""Kinds of error, by whose fault it is and what the caller may do.

Every message says what happened, where, what was expected, what was found, and what to type next.
A program's entry point turns a `PleatError` into one line on standard error and its `exit_code`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

Found = TypeVar("Found")


class PleatError(Exception):
    """Base of all errors that pleat raises on purpose; `exit_code` is what a command ends with."""

    exit_code = 1


class UseError(PleatError):
    """The person at the keyboard asked for something that cannot be: a wrong value, name, file or key."""

    exit_code = 2


class LocalError(PleatError):
    """This side is at fault: a broken disk, a corrupt file, a bug."""


class RemoteError(PleatError):
    """The peer broke the protocol or sent something that does not fit; it is refused and nothing changes."""


class Refused(PleatError):
    """A device declines an order it understands, with the numbers that made it decline (memory, for one)."""


class Retry(PleatError):
    """The same call may succeed later; the caller backs off and tries again."""


class Fatal(PleatError):
    """Trying again cannot help; the program ends with `exit_code`."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def named(kind: str, name: str, table: Mapping[str, Found]) -> Found:
    """The entry `name` of a table of `kind`s. Raises UseError with the nearest name, or with all that there are."""
    if name not in table:
        raise UseError(f"unknown {kind} {name!r}; {hint(name, table)}")
    return table[name]


def nearest(word: str, known: Iterable[str], closeness: float = 0.6) -> str:
    """The known name most like `word`, of those that are like it by at least `closeness` (0 to 1); "" where none is."""
    import difflib  # the idle daemon does without

    return next(iter(difflib.get_close_matches(word, [name for name in known if name], 1, closeness)), "")


def hint(word: str, known: Iterable[str], told: str = "there are") -> str:
    """What to say of a `word` that is not known: "did you mean 'x'?", or where none is near "there are x, y"."""
    names = [name for name in known if name]
    near = nearest(word, names)
    return f"did you mean {near!r}?" if near else f"{told} {', '.join(names) or 'none'}"


def install(extra: str) -> str:
    """What to type for the packages of an optional part, which `extra` of pyproject.toml names."""
    return f"type in pleat's folder: pip install -c constraints.txt '.[{extra}]'"
