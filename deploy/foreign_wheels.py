"""Wheels for another machine than this one: what pip must be told, and the conditions that it would judge wrongly.

pip picks wheels for a foreign machine when told to, but judges conditions such as `python_version < "3.11"` by the
machine that it runs on; so they are judged here, for the target. Nor does it expand older manylinux tags: all are
listed. torch goes without its dependencies, which are taken from its own metadata: on x86-64 pip would pull the CUDA
packages that torch's conditions keep off aarch64.
"""

from __future__ import annotations

from collections.abc import Iterable

from pip._vendor.packaging.requirements import Requirement

GLIBCS = range(17, 37)  # Raspberry Pi OS bookworm has glibc 2.36, JetPack 6 has 2.35


def applying(lines: Iterable[str], python: str, machine: str, extra: str = "") -> list[Requirement]:
    """The requirements whose conditions hold on a Linux `machine` with that `python`, such as "3.11"."""
    target = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": machine,
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_release": "",
        "platform_version": "",
        "extra": extra,
    }
    wanted = [Requirement(line) for line in lines]
    return [one for one in wanted if one.marker is None or one.marker.evaluate(target)]


def plain(one: Requirement) -> str:
    """The requirement without its condition."""
    return f"{one.name}{one.specifier}"


def pins(constraints: str) -> list[str]:
    """The lines of a constraints file that name a version."""
    return [line for line in constraints.splitlines() if line and line[0] != "#"]


def for_target(python: str, machine: str) -> list[str]:
    """pip's words for wheels of that `python` on that `machine`."""
    tags = ["any", f"manylinux2014_{machine}", *(f"manylinux_2_{glibc}_{machine}" for glibc in GLIBCS)]
    words = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    return [*words, *(word for tag in tags for word in ("--platform", tag))]
