"""Memory: what a process holds and held at most, what the machine has left, what a container allows; bytes or None.

The peak of an interval is the kernel's high-water mark (VmHWM), reset through /proc/<pid>/clear_refs. Where that file
may not be written the mark still counts if it rose during the interval; else the resident size is polled.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pleat_client.probe import cgroup
from pleat_client.probe.files import ROOT, matching, table, text

POLL_S = 0.02
_RESET_PEAK = "5"  # proc(5): reset the peak resident set size


def rss_bytes(pid: int | None = None, root: Path = ROOT) -> int | None:
    """Resident memory of a process now (this one by default)."""
    return _kilobytes(_process(root, pid) / "status", "VmRSS")


def own_bytes(pid: int | None = None, root: Path = ROOT) -> int | None:
    """Resident memory of a process that the kernel cannot drop: all but pages of files, such as libraries."""
    status = _process(root, pid) / "status"
    resident, files = _kilobytes(status, "VmRSS"), _kilobytes(status, "RssFile")
    return None if resident is None else resident - (files or 0)


def peak_bytes(pid: int | None = None, root: Path = ROOT) -> int | None:
    """Highest resident memory of a process since it began, or since the last `reset_peak`."""
    return _kilobytes(_process(root, pid) / "status", "VmHWM")


def reset_peak(pid: int | None = None, root: Path = ROOT) -> bool:
    """Start the process's high-water mark anew; False where the kernel or the container does not allow it."""
    mark = _process(root, pid) / "clear_refs"
    try:
        mark.write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def installed_bytes(root: Path = ROOT) -> int | None:
    """The machine's memory, whatever this process may have of it."""
    return _kilobytes(root / "proc/meminfo", "MemTotal")


def total_bytes(root: Path = ROOT) -> int | None:
    """What this process could ever use: the machine's memory, or less where a cgroup says so."""
    known = (installed_bytes(root), cgroup.memory_limit(root))
    return min((value for value in known if value is not None), default=None)


def free_bytes(root: Path = ROOT) -> int | None:
    """What a new allocation can still get: MemAvailable (page cache counts as free), or less inside a cgroup."""
    known = (_kilobytes(root / "proc/meminfo", "MemAvailable"), cgroup.memory_left(root))
    return min((value for value in known if value is not None), default=None)


def tree(pid: int | None = None, root: Path = ROOT) -> list[int]:
    """The process and all its descendants that are alive now."""
    parents: dict[int, int] = {}
    for stat in matching(root / "proc", "[0-9]*/stat"):
        # The command's name stands in brackets and may hold anything; the parent is the second field after it.
        fields = (text(stat) or "").rpartition(")")[2].split()
        if len(fields) > 1 and fields[0] != "Z" and fields[1].isdecimal():
            parents[int(stat.parent.name)] = int(fields[1])
    family = [os.getpid() if pid is None else pid]
    for member in family:  # the list grows while it is walked: breadth first
        family += [child for child, parent in parents.items() if parent == member]
    return family


def tree_rss_bytes(pid: int | None = None, root: Path = ROOT) -> int | None:
    """Resident memory of the process and its descendants, summed; pages that they share count once each."""
    sizes = [rss_bytes(member, root) for member in tree(pid, root)]
    known = [size for size in sizes if size is not None]
    return sum(known) if known else None


class Peak:
    """The highest resident memory of some processes from now until `bytes()`.

    The sum of the processes' own peaks: an upper bound of their common peak, tight where only one of them grows.
    """

    def __init__(self, pids: tuple[int, ...], root: Path = ROOT, poll_s: float = POLL_S) -> None:
        self._watches = tuple(_Watch(pid, root) for pid in pids)
        self._stopped = threading.Event()
        self._poll_s = poll_s
        self._thread: threading.Thread | None = None
        if any(watch.polled for watch in self._watches):
            self._thread = threading.Thread(target=self._poll, name="pleat-peak", daemon=True)
            self._thread.start()

    def bytes(self) -> int | None:
        """The peak so far; None where the system tells nothing. Processes that have ended count as last seen."""
        known = [size for size in (watch.read() for watch in self._watches) if size is not None]
        return sum(known) if known else None

    def stop(self) -> int | None:
        """`bytes()`, and end the polling thread if there is one."""
        found = self.bytes()
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        return found

    def _poll(self) -> None:
        while not self._stopped.wait(self._poll_s):
            for watch in self._watches:
                watch.sample()


class _Watch:
    """One process's peak since construction, by the kernel's mark or by samples."""

    def __init__(self, pid: int, root: Path) -> None:
        self._pid, self._root = pid, root
        self.polled = not reset_peak(pid, root)
        self._mark = peak_bytes(pid, root)
        self._highest: int | None = None

    def sample(self) -> None:
        now = rss_bytes(self._pid, self._root)
        if now is not None:
            self._highest = max(now, self._highest or 0)

    def read(self) -> int | None:
        mark = peak_bytes(self._pid, self._root)
        if mark is not None and (not self.polled or (self._mark is not None and mark > self._mark)):
            self._highest = max(mark, self._highest or 0)
        elif self.polled:
            self.sample()
        return self._highest


def _process(root: Path, pid: int | None) -> Path:
    return root / "proc" / ("self" if pid is None else str(pid))


def _kilobytes(path: Path, key: str) -> int | None:
    words = table(path, ":").get(key, "").split()
    return int(words[0]) * 1024 if words and words[0].isdecimal() else None
