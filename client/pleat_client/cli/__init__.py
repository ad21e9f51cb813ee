"""The command `pleat-client`: one file a verb; errors are one line on standard error and an exit code."""

from __future__ import annotations

import sys

import click
import typer

from pleat.complaint import complaint
from pleat.errors import PleatError
from pleat_client.cli.doctor import doctor
from pleat_client.cli.run import run
from pleat_client.cli.status import status

INTERRUPTED = 130  # what a shell expects after Ctrl-C


def app() -> typer.Typer:
    built = typer.Typer(
        name="pleat-client",
        help="Train the part of a shared model that this device affords, on its own data.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    built.command()(run)
    built.command()(status)
    built.command()(doctor)
    return built


def main(arguments: list[str] | None = None) -> None:
    """Entry point; ends the process."""
    try:
        code = app()(args=arguments, prog_name="pleat-client", standalone_mode=False)
    except click.ClickException as error:
        print(f"pleat-client: {complaint(error, 'pleat-client')}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except PleatError as error:
        print(f"pleat-client: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code or 0)
