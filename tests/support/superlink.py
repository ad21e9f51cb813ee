"""Flower's own runtime for tests: the commands of deploy/flower/README.md, with free ports and the test's folders."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pleat_server.bench.flower_device import environment, free_port, process
from support.processes import until

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "deploy" / "flower" / "README.md"
APP = ROOT / "deploy" / "flower"


def commands(begin: str) -> list[str]:
    """The README's commands that begin so."""
    lines = [line[4:] for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("    ")]
    found = [line for line in lines if line.startswith(begin)]
    assert found, f"{README} shows no command that begins with {begin!r}"
    return found


class Runtime:
    """A SuperLink and the README's SuperNodes, all of them ended by `stop`; commands run in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._own = {port: str(free_port()) for port in ("8000", "9094", "9095")}
        self._env = {
            **environment(folder),
            "FLWR_HOME": str(folder / "runs" / "flwr"),
            "XDG_STATE_HOME": str(folder / "states"),
            "PYTHONPATH": os.pathsep.join([*(str(ROOT / p) for p in ("common", "server", "client")), str(folder)]),
        }
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        for line in (*commands("mkdir"), *commands("printf")):
            self.shell(line)
        here = Path.cwd()
        os.chdir(self.folder)  # where the SuperLink and the SuperNodes look for files named without a folder
        try:
            for number, line in enumerate((*commands("flower-superlink"), *commands("flower-supernode"))):
                words = shlex.split(self._here(line))
                self._running.enter_context(process(words, self.folder / f"runtime-{number}.log", self._env))
        finally:
            os.chdir(here)
        until(lambda: '"runs"' in self.shell("flwr list here --format json").stdout, "the SuperLink to answer")

    def stop(self) -> None:
        self._running.close()

    def shell(self, line: str, **names: str) -> subprocess.CompletedProcess[str]:
        """One command of the README, to its end; `names` stand in for words of it."""
        return subprocess.run(
            ["bash", "-c", self._here(line, names)],
            cwd=self.folder,
            env={**self._env, "PATH": f"{Path(sys.executable).parent}:{self._env['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )

    def _here(self, line: str, names: Mapping[str, str] | None = None) -> str:
        for old, new in {**self._own, "deploy/flower": str(APP), **(names or {})}.items():
            line = re.sub(rf"(?<![\w/]){re.escape(old)}(?!\w)", new, line)
        return line

    def submit(self, line: str, **names: str) -> str:
        """Submit a run; its number."""
        done = self.shell(f"{line} --format json", **names)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(json.loads(done.stdout[done.stdout.index("{") :])["run-id"])

    def listed(self, run: str) -> dict[str, Any]:
        """What `flwr list` says of a run."""
        done = self.shell("flwr list here --format json")
        rows = json.loads(done.stdout[done.stdout.index("{") :])["runs"]
        (row,) = [r for r in rows if r["run-id"] == run]
        return dict(row)

    def ended(self, run: str) -> str:
        """Wait until the run has ended; how."""
        ended = until(lambda: "finished" in (now := self.listed(run)["status"]) and now, f"run {run} to end")
        return str(ended)

    def logs(self) -> str:
        """What the SuperLink and the nodes said, for a test that fails."""
        return "\n".join(p.read_text(errors="replace")[-3000:] for p in sorted(self.folder.glob("runtime-*.log")))
