"""The `pleat` command, one verb a file. An error is one line on standard error and an exit code, never a traceback.

Exit codes: 0 done; 2 asked for something that cannot be; 130 stopped by Ctrl-C (143 by SIGTERM) and resumable; else 1.
Verbs import what is heavy (torch, matplotlib, grpc) only once they run, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import click
import typer

from pleat import __version__
from pleat.complaint import complaint
from pleat.errors import PleatError
from pleat_server.cli import (
    bench,
    demo,
    devices,
    eval,
    export,
    inspect,
    plot,
    prune,
    recipes,
    resume,
    serve,
    shards,
    simulate,
)

VERBS = (demo, serve, simulate, resume, shards, devices, recipes, inspect, prune, plot, eval, export, bench)


class Terminated(SystemExit):
    """SIGTERM: the same clean stop as Ctrl-C, under another exit code."""


def command() -> click.Command:
    """The whole command line."""
    app = typer.Typer(
        name="pleat",
        help="Federated learning that folds one model to fit every device.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    for verb in VERBS:
        app.command(verb.__name__.rpartition(".")[2])(verb.run)
    app.callback()(_top)
    return typer.main.get_command(app)


def _version(asked: bool) -> None:
    if asked:
        print(f"pleat {__version__}")
        raise typer.Exit


def _top(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", is_eager=True, callback=_version
    ),
) -> None:
    """Federated learning that folds one model to fit every device."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _on_terminate)
    try:
        result: Any = command().main(words, prog_name="pleat", standalone_mode=False)
        if result == 130:  # typer turns Ctrl-C into an exit code
            return _complain("stopped", 130)
        return result if isinstance(result, int) else 0
    except PleatError as error:
        return _complain(str(error), error.exit_code)
    except click.ClickException as error:
        return _complain(complaint(error, "pleat"), error.exit_code)
    except Terminated:
        return _complain("stopped", 143)
    except (KeyboardInterrupt, click.Abort):
        return _complain("stopped", 130)
    except BrokenPipeError:  # the reader of our output (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(f"{error.filename or 'the system'}: {error.strerror or error}", 1)


def _on_terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def _complain(text: str, code: int) -> int:
    sys.stdout.flush()
    print(f"pleat: {' '.join(text.split())}", file=sys.stderr)
    return code
