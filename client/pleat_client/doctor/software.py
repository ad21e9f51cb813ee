"""Checks of what is installed: Python, the processor it was built for, torch."""

from __future__ import annotations

import sys
from importlib import metadata

import msgspec

from pleat_client import wheels
from pleat_client.doctor.case import TRIAL_S, Case, Ran
from pleat_client.doctor.finding import Facts, Finding, Mark
from pleat_client.probe import processor

OLDEST, NEWEST = (3, 10), (3, 13)  # for these all wheels exist on aarch64


class _Trial(msgspec.Struct):
    """What `pleat_client.trial` prints, read without torch."""

    torch: str
    idle_bytes: int | None
    peak_bytes: int | None
    step_s: float


def python(case: Case) -> Finding:
    here = ".".join(map(str, case.python))
    if case.python < OLDEST:
        return Finding(
            "python", Mark.FAIL, f"Python {here} is too old, 3.10 is needed", "sudo apt install python3.11-venv"
        )
    if case.python > NEWEST:
        return Finding(
            "python",
            Mark.WARN,
            f"Python {here} is newer than any that was tried (3.10 to 3.13); wheels may be missing",
            "python3.13 -m venv /opt/pleat",
        )
    return Finding("python", Mark.OK, f"Python {here}")


def architecture(case: Case) -> Finding:
    """64 bits, and on Arm whether the processor has the atomic instructions of ARMv8.1."""
    facts: Facts = {"machine": case.machine, "bits": case.bits}
    if case.bits != 64:
        return Finding(
            "processor",
            Mark.FAIL,
            f"{case.machine}, a {case.bits}-bit system, for which neither torch nor grpc is made",
            "install the 64-bit system: rpi-imager, then Raspberry Pi OS (64-bit)",
            facts,
        )
    if case.machine in ("aarch64", "arm64"):
        lse = processor.has_lse(case.root)
        facts["lse"] = lse
        if lse is None:
            return Finding("processor", Mark.UNKNOWN, f"{case.machine}; its features are not told", "lscpu", facts)
        if not lse:
            says = f"{case.machine}, ARMv8.0 without LSE atomics (as a Pi 3, Pi 4, Zero 2): torch {wheels.TRIED} runs"
            return Finding("processor", Mark.OK, f"{says}, {wheels.CRASHES} does not", facts=facts)
        return Finding("processor", Mark.OK, f"{case.machine}, ARMv8.1 or later", facts=facts)
    if case.machine in ("x86_64", "AMD64"):
        return Finding("processor", Mark.OK, case.machine, facts=facts)
    return Finding("processor", Mark.UNKNOWN, f"{case.machine or 'not told'}; pleat was never tried on it", facts=facts)


def torch(case: Case) -> Finding:
    """Two training steps of a small net in a child: an import alone does not touch the kernels that training needs."""
    ran, install = case.trial, wheels.install(case.board.kind)
    if isinstance(ran, OSError):
        return Finding("torch", Mark.UNKNOWN, f"could not be tried: {ran}", f"{sys.executable} -m pleat_client.trial")
    found = trial(case)
    if found is not None:
        says = f"torch {found.torch} imports and trains; a step of a small net takes {found.step_s * 1e3:.0f} ms"
        return Finding("torch", Mark.OK, says, facts=msgspec.structs.asdict(found))
    version = _installed()
    if "No module named 'torch'" in ran.err:
        return Finding("torch", Mark.FAIL, "torch is not installed", install)
    if ran.code is None:
        says = f"torch {version} did not get through two training steps within {TRIAL_S:.0f} s"
        return Finding("torch", Mark.UNKNOWN, says, f"time {sys.executable} -m pleat_client.trial")
    if ran.code in wheels.ILLEGAL:
        says = (
            f"torch {version} dies of an illegal instruction (SIGILL): it was built for another processor; "
            f"on ARMv8.0 torch {wheels.CRASHES} does this, {wheels.TRIED} does not"
        )
        return Finding("torch", Mark.FAIL, says, install, {"torch": version, "code": ran.code})
    if ran.code in wheels.KERNEL_KILLED:
        says = f"torch {version} was killed while it was loaded (signal 9), most likely for want of memory"
        return Finding("torch", Mark.FAIL, says, "free -h; sudo dmesg | grep -i oom", {"torch": version})
    last = (ran.err.strip().splitlines() or [wheels.ending(ran.code)])[-1]
    return Finding("torch", Mark.FAIL, f"torch {version}: {last[:200]}", install, {"torch": version, "code": ran.code})


def trial(case: Case) -> _Trial | None:
    """What the trial measured, if torch came through it."""
    ran = case.trial
    if not isinstance(ran, Ran) or ran.code != 0:
        return None
    try:
        return msgspec.json.decode(ran.out.strip().rpartition("\n")[2], type=_Trial)
    except msgspec.MsgspecError:
        return None


def _installed() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "of unknown version"
