"""A mistake on the command line in one line, the same for every command: what is wrong, and where help is."""

from __future__ import annotations

import click

SUGGESTS = "Did you mean"


def complaint(error: click.ClickException, program: str) -> str:
    """What click says of a mistake, as one line without its Usage block. `program`: the command where click knows no
    verb. Both click and typer add suggestions for a command; the first is kept."""
    text = " ".join(error.format_message().split()) or "no command given."
    if not isinstance(error, click.UsageError):
        return text
    again = text.find(SUGGESTS, text.find(SUGGESTS) + 1)
    text = text[:again].rstrip("( ") if again > 0 else text
    return f"{text} See `{error.ctx.command_path if error.ctx else program} --help`"
