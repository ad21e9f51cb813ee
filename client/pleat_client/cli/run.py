"""`pleat-client run`: join a server's runs with this device's data, until stopped."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from pleat_client import config


def run(
    server: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Where the server listens.")] = None,
    data: Annotated[Path | None, typer.Option(help="This device's shard: .npz with x and y.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Label of this device, unique in a run. Default: the host's name.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of daemon and trainer, such as 300MiB. Default: none.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Time budget of a round in seconds. Default: none.")] = None,
    upload: Annotated[str | None, typer.Option(help="Bytes up a round, such as 2MB. Default: no limit.")] = None,
    download: Annotated[str | None, typer.Option(help="Bytes down a round, such as 8MB. Default: no limit.")] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for identity and unsent work. Default: ~/.local/state/pleat/NAME.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Plaintext to another machine: whoever listens, reads.")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate authority of the server (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option(help="This device's certificate, if the server asks (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --cert (PEM).")] = None,
    holdout: Annotated[
        float | None, typer.Option(help="Share of the shard kept for scoring, 0 to below 1. Default: 0.1.")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(help="Seconds without an order until the trainer frees its memory. Default: 30.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the trainer. Default: the cores it may use.")] = None,
    accelerator: Annotated[
        str | None, typer.Option(help="Where to train: auto, cpu or cuda. Default: auto, a GPU if torch can use one.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--config", help="Settings in TOML. Default: /etc/pleat/client.toml.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and errors.")] = False,
) -> int:
    """Join a server's runs with this device's data: starts before or after the server, stays for the next run.

    Budgets are hard: the server never asks for more, and this device refuses what would not fit. Ctrl-C ends cleanly.
    """
    given = {
        "server": server,
        "data": data,
        "name": name,
        "memory": memory,
        "seconds": seconds,
        "upload": upload,
        "download": download,
        "state": state,
        "insecure": insecure,
        "ca": ca,
        "cert": cert,
        "key": key,
        "holdout": holdout,
        "idle": idle,
        "threads": threads,
        "accelerator": accelerator,
    }
    from pleat_client import app  # gRPC: `status` and `--help` do without it

    settings = config.load(given, file)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING if quiet else logging.INFO,
        format=f"%(asctime)s {settings.name} %(message)s",
        datefmt="%H:%M:%S",
    )
    return app.run(settings)
