"""`pleat-client doctor`: would this board do well, and if not, what to type."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pleat.exchange import address as addresses
from pleat_client import config

if TYPE_CHECKING:
    from pleat_client.doctor.case import Case
    from pleat_client.doctor.finding import Finding


def doctor(
    server: Annotated[
        list[str] | None, typer.Option(metavar="HOST:PORT", help="Server to try; may be given more than once.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The device's label. Default: the host's name.")] = None,
    state: Annotated[Path | None, typer.Option(help="Its state folder. Default: as for status.")] = None,
    memory: Annotated[str | None, typer.Option(help="Its memory budget, such as 300MiB. Default: none.")] = None,
    insecure: Annotated[bool | None, typer.Option("--insecure", help="Try the server in plaintext.")] = None,
    ca: Annotated[Path | None, typer.Option(help="Certificate authority of the server (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option(help="This device's certificate, if the server asks (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="The key of --cert (PEM).")] = None,
    file: Annotated[
        Path | None, typer.Option("--config", help="Settings in TOML. Default: /etc/pleat/client.toml.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> int:
    """Look whether this board would do well: each line ok, warn, fail or unknown, with what to type. Changes nothing.

    Settings come from the same file as for `run`. Exit code 0, or 1 where a line says fail. A board that does not tell
    something gets "unknown", which is no fault.
    """
    from pleat_client.doctor.table import examine, exit_code  # gRPC: `--help` does without it

    given = {"name": name, "state": state, "memory": memory, "insecure": insecure, "ca": ca, "cert": cert, "key": key}
    case = _case(config.told(given, file, service=config.SERVICE_STATE), server)
    findings = []
    for finding in examine(case):
        findings.append(finding)
        if not as_json:
            typer.echo(shown(finding))
    code = exit_code(findings)
    if as_json:
        typer.echo(json.dumps({"ok": code == 0, "findings": [dataclasses.asdict(one) for one in findings]}))
    return code


def _case(told: dict[str, object], servers: list[str] | None) -> Case:
    from pleat_client.doctor.case import Case

    wanted = servers or ([str(told["server"])] if told.get("server") else [])
    for address in wanted:
        addresses.parse(address)
    return Case(
        servers=tuple(dict.fromkeys(wanted)),
        state=Path(str(told["state"])),
        ca=_file(told, "ca"),
        cert=_file(told, "cert"),
        key=_file(told, "key"),
        insecure=bool(told.get("insecure")),
        budget=config.size(told["memory"], "memory") if told.get("memory") is not None else None,
    )


def _file(told: dict[str, object], key: str) -> Path | None:
    return Path(str(told[key])) if told.get(key) else None


def shown(finding: Finding) -> str:
    """One line, and one more for the remedy."""
    line = f"{finding.mark.value:<8} {finding.check:<13} {finding.says}"
    return f"{line}\n{'':>23}{finding.remedy}" if finding.remedy else line
