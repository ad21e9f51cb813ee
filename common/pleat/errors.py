"""Kinds of error, by whose fault it is and what the caller may do.

Every message says what happened, where, what was expected, what was found, and what to type next.
A program's entry point turns a `PleatError` into one line on standard error and its `exit_code`.
"""

from __future__ import annotations

from collections.abc import Mapping
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
        import difflib  # the idle daemon does without

        near = difflib.get_close_matches(name, table, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(n for n in table if n)}"
        raise UseError(f"unknown {kind} {name!r}; {hint}")
    return table[name]
