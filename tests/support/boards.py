"""Boards for install-client.sh: a root with the files it looks at, and the system's tools on a PATH, all of them fakes.

What is ours, the script, is real. `python3` is a fake too: a real one would need torch's wheels, which
`make check-install` has.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPT = CHECKOUT / "deploy" / "install-client.sh"

PYTHON = """#!/bin/sh
case "$*" in
  -V) echo "Python $FAKE_PYTHON" ;;
  *'sys.exit(not'*) case $FAKE_PYTHON in 3.1[0-3]) ;; *) exit 1 ;; esac ;;
  *'print("%d.%d"'*) echo "$FAKE_PYTHON" ;;
  *'import ensurepip'*) [ -z "$FAKE_NO_VENV" ] ;;
  *'print(version("torch"))'*) [ -n "$FAKE_TORCH" ] && echo "$FAKE_TORCH" ;;
  *'"torch=="'*) echo "torch==${FAKE_TORCH:-2.9.1}" ;;
  *'-m venv'*)
    if [ "$FAKE_FAIL" = venv ]; then exit 1; fi
    for folder in "$@"; do :; done
    mkdir -p "$folder/bin"
    cp "$0" "$folder/bin/python"
    echo "command = python3 -m venv $folder" >"$folder/pyvenv.cfg" ;;
  *'-m pip install'*)
    echo "$*" >>"$FAKE_LOG"
    folder=$(dirname "$0")
    printf '#!%s/python\\n# %s\\n' "$folder" "$FAKE_BUILD" >"$folder/pleat-client"
    case $FAKE_FAIL in
      pip) echo "$FAKE_SAYS"; exit 1 ;;
      term) kill -TERM $PPID ;;
    esac ;;
  -) echo "$FAKE_SAYS"; exit "${FAKE_TRY:-0}" ;;
  *) echo "not foreseen: $*" >&2; exit 99 ;;
esac
"""
SAY = "#!/bin/sh\necho {}\n"
CALL = '#!/bin/sh\necho "{0} $*" >>"$FAKE_LOG"\ncase "{0} $*" in *"${{FAKE_FAIL:-nothing}}"*) exit 1 ;; esac\n'
GETENT = '#!/bin/sh\n[ "$1" = group ] && [ "$2" = video ]\n'
ACTIVE = "case $* in *is-active*) exit 3 ;; esac\n"


@dataclass
class Board:
    """One machine. `environment`: what its fakes are to do."""

    root: Path
    tools: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """install-client.sh on this board."""
        names = ("PYTHON", "NO_VENV", "TORCH", "FAIL", "SAYS", "TRY", "BUILD")
        fakes = {f"FAKE_{name}": "" for name in names} | {"FAKE_PYTHON": "3.11", "FAKE_LOG": str(self.tools / "log")}
        path = f"{self.tools}:{os.environ['PATH']}"
        env = {**os.environ, **fakes, **self.environment, **environment, "PATH": path, "PLEAT_ROOT": str(self.root)}
        return subprocess.run(["sh", str(SCRIPT), *words], env=env, capture_output=True, text=True, check=False)

    def files(self) -> dict[str, str]:
        """Every file, folder and link of the root, with its text."""
        found = sorted(self.root.rglob("*"))
        return {str(p.relative_to(self.root)): p.read_text() if p.is_file() else str(p.is_symlink()) for p in found}

    def called(self) -> str:
        log = self.tools / "log"
        return log.read_text() if log.exists() else ""


def board(
    folder: Path,
    machine: str = "aarch64",
    system: tuple[str, str] = ("debian", "12"),
    model: str = "",
    features: str = "fp asimd crc32",
    bits: int = 64,
    free_mb: int = 9000,
    jetson: bool = False,
    **environment: str,
) -> Board:
    """A board under `folder`. `features`: of its processor; ARMv8.1 and later have atomics."""
    root, tools = folder / "root", folder / "tools"
    for made in ("etc", "proc/device-tree", "opt", "usr/local/bin", "etc/systemd/system", "var/lib"):
        (root / made).mkdir(parents=True)
    tools.mkdir()
    (root / "etc/os-release").write_text(
        f'PRETTY_NAME="{system[0]} {system[1]}"\nID={system[0]}\nVERSION_ID="{system[1]}"\n'
    )
    (root / "proc/cpuinfo").write_text(f"Features\t: {features}\n")
    if model:
        (root / "proc/device-tree/model").write_text(f"{model}\0")
    if jetson:
        (root / "etc/nv_tegra_release").write_text("# R36 (release)\n")
    scripts = {
        "python3": PYTHON,
        "uname": f'#!/bin/sh\nif [ "$1" = -m ]; then echo {machine}; else echo Linux; fi\n',
        "getconf": SAY.format(bits),
        "id": SAY.format(0),
        "df": f"#!/bin/sh\necho Head\necho disk 1 1 {free_mb * 1024} 1% /\n",
        "getent": GETENT,
        "systemctl": CALL.format("systemctl") + ACTIVE,
        **{name: CALL.format(name) for name in ("useradd", "userdel", "usermod", "chown")},
    }
    for name, text in scripts.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return Board(root, tools, environment)
