"""Checks of what there is to work with: memory and its limits, disk, clock."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from pleat.disk import free_bytes
from pleat.errors import PleatError
from pleat_client.doctor.case import Case
from pleat_client.doctor.finding import Facts, Finding, Mark, mib
from pleat_client.doctor.software import trial
from pleat_client.probe import board, cgroup

DAEMON_BYTES = 50 << 20  # what the idle daemon holds
MARGIN = 1.15  # on the server's prediction, as the server itself plans
SPARE = 1.25  # less room than this is worth a warning
DISK_FAIL, DISK_WARN = 128 << 20, 512 << 20  # two states with a full residual of 64 MiB; and room for reports
_BOOT_LINE = "/boot/firmware/cmdline.txt"
_YEARS = (2025, 2100)


def groups(case: Case) -> Finding:
    """Memory cgroups: without them the limits of systemd and Docker are ignored without a word."""
    on = cgroup.memory_enabled(case.root)
    if on is None:
        return Finding("memory cgroup", Mark.UNKNOWN, "not told", "cat /proc/cgroups /sys/fs/cgroup/cgroup.controllers")
    if on:
        return Finding("memory cgroup", Mark.OK, "on: limits of systemd and Docker hold")
    says = "off: limits of systemd (MemoryMax) and Docker (mem_limit) are ignored; pleat's own --memory still holds"
    if board.is_pi(case.root):
        append = f"sudo sed -i '1 s/$/ cgroup_enable=memory cgroup_memory=1/' {_BOOT_LINE} && sudo reboot"
        return Finding("memory cgroup", Mark.WARN, says, append)
    return Finding("memory cgroup", Mark.WARN, says, 'say memory = "300MiB" in /etc/pleat/client.toml')


def memory(case: Case) -> Finding:
    """Is there room for daemon, trainer and the smallest submodel? The trainer's own size is what torch's trial took;
    what the submodel adds is the server's word, or what the trial's small net added."""
    free, tried = case.free_bytes, trial(case)
    facts: Facts = {"free": free, "budget": case.budget}
    if tried is None or tried.idle_bytes is None or tried.peak_bytes is None:
        says = f"{mib(free)} free; " if free is not None else ""
        return Finding("memory", Mark.UNKNOWN, f"{says}what the trainer needs is not known without torch", facts=facts)
    told = [
        reached.answer.smallest
        for reached in case.answers.values()
        if not isinstance(reached, PleatError) and reached.answer.smallest is not None
    ]
    trainer = DAEMON_BYTES + tried.idle_bytes
    need = int(trainer + MARGIN * min(told)) if told else DAEMON_BYTES + tried.peak_bytes
    facts["need"] = need
    of = "the server's smallest submodel" if told else "a small net (no server told its smallest)"
    if case.budget is not None and need > case.budget:
        says = f"{of} needs {mib(need)}, the budget is {mib(case.budget)}: the server will give this device nothing"
        return Finding("memory", Mark.FAIL, says, f'say memory = "{need * 5 // 4 >> 20}MiB" in the settings', facts)
    if free is None:
        return Finding("memory", Mark.UNKNOWN, f"{of} needs {mib(need)}; what is free is not told", "free -h", facts)
    says = f"{of} needs {mib(need)} with daemon and trainer, {mib(free)} are free"
    if need * SPARE <= free:
        return Finding("memory", Mark.OK, says, facts=facts)
    return Finding("memory", Mark.FAIL if need > free else Mark.WARN, says, "ps -eo rss,args --sort=-rss | head", facts)


def disk(case: Case) -> Finding:
    """Can the state folder be written, and does a full residual fit?"""
    folder = nearest(case.state)
    facts: Facts = {"folder": str(case.state)}
    mend = f"sudo install -d -o $(id -un) {case.state}"
    if not folder.is_dir():
        return Finding("disk", Mark.FAIL, f"{folder} is no folder, the state cannot lie there", mend, facts)
    try:
        _try_writing(folder, trace=folder != case.state)
        free = free_bytes(folder)
    except OSError as error:
        if isinstance(error, PermissionError) and folder == case.state and folder.stat().st_uid != os.geteuid():
            says = f"the state folder {folder} belongs to another user, who alone can tell"
            return Finding("disk", Mark.UNKNOWN, says, "sudo pleat-client doctor", facts)
        says = f"the state folder {case.state} cannot be written: {error.strerror or error}"
        return Finding("disk", Mark.FAIL, says, mend, facts)
    facts["free"] = free
    says = f"{mib(free)} free for the state folder {case.state}"
    if free >= DISK_WARN:
        return Finding("disk", Mark.OK, says, facts=facts)
    clean = f"du -xh {folder} | sort -h | tail; sudo apt clean"
    return Finding(
        "disk", Mark.FAIL if free < DISK_FAIL else Mark.WARN, f"{says}, {mib(DISK_WARN)} are wanted", clean, facts
    )


def nearest(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _try_writing(folder: Path, trace: bool) -> None:
    """Raises OSError. In the device's own folder a file is written; in a parent of it only the permission is asked."""
    if trace:
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(folder))
        return
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"doctor")
        file.flush()
        os.fsync(file.fileno())


def clock(case: Case) -> Finding:
    """A clock that is years off makes every certificate invalid; one that drifts confuses logs."""
    now = case.now()
    year, synchronised = time.gmtime(now).tm_year, case.synchronised()
    facts: Facts = {"unix": now, "synchronised": synchronised}
    shown, mend = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now)), "sudo timedatectl set-ntp true"
    if not _YEARS[0] <= year < _YEARS[1]:
        says = f"{shown} cannot be: certificates will look as if they were not valid yet, or no more"
        return Finding("clock", Mark.FAIL, says, mend, facts)
    if synchronised is None:
        return Finding("clock", Mark.UNKNOWN, f"{shown}; whether it is synchronised is not told", "timedatectl", facts)
    if not synchronised:
        return Finding("clock", Mark.WARN, f"{shown}, but it is not synchronised", mend, facts)
    return Finding("clock", Mark.OK, f"{shown}, synchronised", facts=facts)
