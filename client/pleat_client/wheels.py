"""Which torch a board can run, in one place: what the daemon, the doctor and the messages of both advise.

torch 2.10.0 uses instructions that ARMv8.0 (Pi 3, Pi 4, Zero 2) does not have. PyPI's aarch64 wheels are CPU builds up
to 2.10 and CUDA builds of gigabytes from 2.11 on. 2.9.1 is neither, and was tried.
"""

from __future__ import annotations

import signal
import sys

TRIED = "2.9.1"
CRASHES = "2.10.0"  # on ARMv8.0
KERNEL_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # directly, or as a shell or container's init tells it
ILLEGAL = (-signal.SIGILL, 128 + signal.SIGILL)


def install(kind: str = "", python: str = sys.executable) -> str:
    """The command that installs a torch that runs here. `kind`: as `Board.kind`."""
    if kind == "jetson":
        return f"{python} -m pip install --no-deps TORCH.whl   # NVIDIA's wheel for your JetPack, not PyPI's"
    return f"{python} -m pip install --force-reinstall 'torch=={TRIED}'"


def ending(code: int | None) -> str:
    """How a child that holds torch ended, in words, with advice where a signal has a known cause."""
    if code is None:
        return "it closed its pipe without an answer and had to be killed"
    if code in ILLEGAL:
        return (
            f"illegal instruction (signal 4): this torch was built for another processor; torch {CRASHES} does not run "
            f"on a Pi 4, {TRIED} does: {install()}"
        )
    if code in KERNEL_KILLED:
        return "killed (signal 9), most likely for want of memory"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
