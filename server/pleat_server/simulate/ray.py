"""Flower's simulation engine: the two Flower apps with many devices on Ray, on this machine or a cluster of them.

    python -m pleat_server.simulate.ray 4 model=mlp rounds=3 shards=shards data=shards/test.npz

After the number of devices come the keys of the run config (`exchange.flower.Settings`). Device N reads device-N.npz of
the folder `shards`, and keeps its state under `state`, else in the run's folder. Needs the extra "ray".
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from flwr.simulation import run_simulation

from pleat.errors import PleatError, UseError, install
from pleat.exchange.flower import settings
from pleat_client.flower_app import client_app
from pleat_server.cli.options import overrides
from pleat_server.flower_app import server_app

CPUS = 1  # of Ray's for each device at work


def simulate(devices: int, config: dict[str, Any]) -> None:
    """Run the apps of the run config `config` to their end. Raises UseError for a wrong key or value."""
    said = settings(config)
    if importlib.util.find_spec("ray") is None:
        raise UseError(f"Ray is not installed here; {install('server,ray')}")
    if not said.shards:
        raise UseError("no shards named; make some with: pleat shards SOURCE --devices N, and add shards=FOLDER")
    folder = Path(said.folder or "runs/ray").absolute()
    given = {**config, "folder": str(folder), "least": said.least or devices}
    for key, path in (("shards", said.shards), ("state", said.state or folder / "devices"), ("data", said.data)):
        given[key] = str(Path(path).absolute()) if path else ""  # Ray's workers run elsewhere
    run_simulation(
        server_app(given),
        client_app(given),
        num_supernodes=devices,
        backend_config={"client_resources": {"num_cpus": CPUS, "num_gpus": 0.0}},
    )


def main(words: list[str]) -> int:
    try:
        if not words or not words[0].isdecimal() or int(words[0]) < 1:
            raise UseError("expected a number of devices, then KEY=VALUE, such as: 4 model=mlp shards=shards")
        simulate(int(words[0]), overrides(words[1:]))
    except PleatError as error:
        print(f"pleat: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
