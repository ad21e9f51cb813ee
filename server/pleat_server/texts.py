"""Texts: labelled sentences of a JSON file as rows of token ids.

A file is `[[text, label], ...]`, or `{"train": [...], "test": [...]}`, `.json` or `.json.xz`. A label is a class number
from 0, or a name; a third entry of a row says whom or what the text is from (a person, a domain), a number or a name.
Words are lower-case runs of letters, digits and apostrophes. A text begins with START and has a fixed length: what is
longer is cut, what is shorter is padded with PAD. Ids follow from the words of the samples to train on alone; a word
that is not among them, or beyond the vocabulary's size, is UNKNOWN.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.errors import UseError
from pleat.shard import Shard

PAD, UNKNOWN, START, FIRST = 0, 1, 2, 3  # ids; that of the most frequent word is FIRST
WORDS, VOCABULARY = 32, 4096  # tokens a text, and ids, unless one says otherwise
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
SUFFIXES = (".json", ".json.xz")
_ROWS = 'expected [[text, label], ...] or {"train": [...], "test": [...]}'

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Words:
    """The words of a data set in the order in which they come, the first with id FIRST; `size`: ids that a vocabulary
    may have."""

    words: tuple[str, ...]
    size: int

    def fitted(self, x: NDArray[np.float32], train: Index) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """`x` in ids that the samples `train` give: their most frequent words first, of equal ones in the order of the
        alphabet; and what each id from FIRST on stands for."""
        counts = np.bincount(x[train].astype(np.int64).reshape(-1), minlength=FIRST + len(self.words))[FIRST:]
        order = sorted(np.flatnonzero(counts), key=lambda i: (-counts[i], self.words[i]))[: self.size - FIRST]
        new = np.full(FIRST + len(self.words), UNKNOWN, np.float32)
        new[:FIRST] = range(FIRST)
        new[FIRST + np.array(order, np.int64)] = np.arange(FIRST, FIRST + len(order))
        return new[x.astype(np.int64)], tuple(self.words[i] for i in order)


@dataclass(frozen=True, eq=False)
class Texts:
    """A file's texts: `shard` in the ids of `words`; `clients` as numbers from 0, None where rows do not say; `test`:
    positions of the rows that the file itself sets aside, None where it sets none."""

    shard: Shard
    clients: Index | None
    words: Words
    test: Index | None


def read_texts(path: Path, length: int = WORDS, vocabulary: int = VOCABULARY) -> Texts:
    """The texts of the file `path`. Raises UseError, naming the row, for a file that is none of texts."""
    if length < 2 or not FIRST < vocabulary <= 1 << 16:
        raise UseError(f"texts need 2 words or more and a vocabulary from 4 to 65536, got {length} and {vocabulary}")
    train, test = _parts(_loaded(path), path)
    rows = [*train, *test]
    for number, row in enumerate(rows):
        _check(row, rows[0], f"{path}: " + _place(number, len(train)))
    numbers: dict[str, int] = {}
    x = np.full((len(rows), length), PAD, np.float32)
    for line, row in zip(x, rows, strict=True):
        line[0] = START
        found = [numbers.setdefault(word, FIRST + len(numbers)) for word in _WORD.findall(row[0].lower())[: length - 1]]
        line[1 : 1 + len(found)] = found
    y = _numbered([row[1] for row in rows])
    clients = _numbered([row[2] for row in rows]) if len(rows[0]) > 2 else None
    held = np.arange(len(train), len(rows)) if test else None
    return Texts(Shard(x, y), clients, Words(tuple(numbers), vocabulary), held)


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise UseError(f"no file {path}; {_ROWS}")
    try:
        data = path.read_bytes()
        return json.loads(lzma.decompress(data) if path.suffix == ".xz" else data)
    except (ValueError, lzma.LZMAError, EOFError, OSError, RecursionError) as error:
        kind = "an xz-packed JSON file" if path.suffix == ".xz" else "a JSON file"
        raise UseError(f"{path}: cannot be read as {kind}: {error}") from None


def _parts(found: Any, path: Path) -> tuple[list[Any], list[Any]]:
    """Rows to train on and rows set aside."""
    parts = found if isinstance(found, Mapping) else {"train": found}
    train, test = parts.get("train"), parts.get("test", [])
    if not isinstance(train, list) or not isinstance(test, list):
        raise UseError(f"{path}: no rows of texts: {_ROWS}")
    if len(train) < 2:
        raise UseError(f"{path}: {len(train)} row(s) to train on; at least 2 are needed")
    return train, test


def _place(number: int, trained: int) -> str:
    return f"row {number}" if number < trained else f"test row {number - trained}"


def _check(row: Any, first: Sequence[Any], where: str) -> None:
    """Raises UseError unless `row` is text, label and perhaps a third entry, of the kinds that the first row has."""
    if not isinstance(row, list) or len(row) < 2 or not isinstance(row[0], str):
        raise UseError(f"{where}: expected [text, label], got {str(row)[:60]}")
    if len(row[:3]) != len(first[:3]):
        raise UseError(f"{where}: expected {len(first[:3])} entries as in the first row, got {len(row[:3])}")
    for name, value, like in zip(("label", "third entry"), row[1:3], first[1:3], strict=False):
        if isinstance(value, bool) or not isinstance(value, int | str) or type(value) is not type(like):
            raise UseError(f"{where}: {name} must be a number or a name, of one kind in all rows, got {value!r:.60}")
        if isinstance(value, int) and not 0 <= value <= 10**6:
            raise UseError(f"{where}: {name} must count from 0, got {value}")


def _numbered(values: list[Any]) -> Index:
    """Numbers as they are, names in the order of the alphabet."""
    if isinstance(values[0], int):
        return np.asarray(values, np.int64)
    return np.unique(np.asarray(values, np.str_), return_inverse=True)[1].astype(np.int64)
