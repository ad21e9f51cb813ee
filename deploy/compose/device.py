#!/opt/pleat/bin/python3
"""A container's place in a fleet: `run` takes a shard that no other replica holds and becomes its device; `health`.

    PLEAT_SHARD     name of a shard, or a pattern: client-* takes the first that is free
    PLEAT_HANDOUT   folder of NAME.npz and ca.pem (/handout)      PLEAT_STATE   one folder a device (/state)
    PLEAT_SERVER    HOST:PORT (server:8470)                       PLEAT_MEMORY  memory budget, none if empty

The device is named after its shard, and its state lies beside those of the others: identity and residual belong to the
data, so whichever replica takes a shard goes on where the last one stopped. A claim is a lock that the kernel drops
when its holder dies, however it dies. Exit codes: 2 = no shard to be had; else those of pleat-client.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path

CHOSEN = Path("/tmp/pleat-device")  # where `run` leaves the state folder's name for `health`


def main(arguments: list[str]) -> int:
    handout, state = Path(os.environ.get("PLEAT_HANDOUT", "/handout")), Path(os.environ.get("PLEAT_STATE", "/state"))
    if arguments[:1] == ["health"]:
        return health(CHOSEN)
    if arguments[:1] != ["run"]:
        print(f"pleat-device: expected run or health, got {' '.join(arguments) or 'nothing'}", file=sys.stderr)
        return 2
    pattern = os.environ.get("PLEAT_SHARD", "client-*")
    name = claim(handout, pattern, state)
    if name is None:
        print(f"pleat-device: {missing(handout, pattern)}", file=sys.stderr)
        return 2
    CHOSEN.write_text(str(state / name))
    command = words(name, handout, state, os.environ) + arguments[1:]
    return os.execvp(command[0], command)


def claim(handout: Path, pattern: str, state: Path) -> str | None:
    """The first shard's name whose lock this process could take; held until the process, or what it becomes, ends."""
    for shard in sorted(handout.glob(f"{pattern}.npz")):
        handle = os.open(state / f"{shard.stem}.claim", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            continue
        os.set_inheritable(handle, True)
        return shard.stem
    return None


def missing(handout: Path, pattern: str) -> str:
    """Why there was nothing to claim, and what to type."""
    found = sorted(path.stem for path in handout.glob("*.npz"))
    matching = len(list(handout.glob(f"{pattern}.npz")))
    if matching:
        return (
            f"all {matching} shards {pattern} in {handout} are taken by other devices; deal more, such as "
            f"PLEAT_CLIENTS={2 * matching} docker compose -f deploy/compose.yaml up --scale client={2 * matching}"
        )
    holds = f"it holds {', '.join(found)}" if found else "it is empty"
    return (
        f"no shard {pattern}.npz in {handout}: {holds}; mount the volume handout, which the service server "
        "fills, or set PLEAT_SHARD"
    )


def words(name: str, handout: Path, state: Path, env: os._Environ[str] | dict[str, str]) -> list[str]:
    """The command that this process becomes."""
    command = ["pleat-client", "run", "--server", env.get("PLEAT_SERVER", "server:8470"), "--name", name]
    command += ["--data", str(handout / f"{name}.npz"), "--state", str(state / name), "--ca", str(handout / "ca.pem")]
    return command + (["--memory", env["PLEAT_MEMORY"]] if env.get("PLEAT_MEMORY") else [])


def health(chosen: Path) -> int:
    """0 while the device is joined to a server."""
    try:
        told = json.loads((Path(chosen.read_text()) / "status.json").read_bytes())
    except (OSError, ValueError):
        print("no device has begun here yet")
        return 1
    print(told["notice"] or told["state"])
    return 0 if told["joined"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
