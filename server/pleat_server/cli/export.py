"""`pleat export`: a submodel of a run's model as a file that a device runs by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pleat_server.cli import options


def run(
    folder: options.Run,
    rate: options.Size = "1",
    depth: options.Depth = "",
    format: Annotated[str, typer.Option(help="safetensors, torch-export or onnx.")] = "safetensors",
    out: Annotated[Path | None, typer.Option(help="File to write. Default: RUN/submodel-RATE-DEPTH.*")] = None,
    data: options.TestData = None,
    json: options.Json = False,
) -> None:
    """Write a submodel of the model a run has come to as a file of its own, and print its test accuracy."""
    from pleat_server import export

    facts = export.export(folder, rate, options.depth(depth), format, out, data)
    if json:
        options.dump(facts)
        return
    for line in told(facts):
        print(line)


def told(facts: dict[str, Any]) -> list[str]:
    """What was written, in lines."""
    blocks = f", blocks {','.join(map(str, facts['depth']))}" if facts["depth"] else ""
    masks = ", masks applied" if facts["masked"] else ""
    lines = [
        f"{facts['file']}: {facts['bytes']:,} bytes; size {facts['size']}{blocks}{masks}; {facts['parameters']:,} of "
        f"{facts['of_parameters']:,} parameters, {facts['macs'] / max(1, facts['of_macs']):.1%} of the multiply-adds"
    ]
    if facts["accuracy"] is None:
        lines.append(f"test accuracy unknown: {facts['data']}; give --data FILE.npz")
    else:
        on = f"{facts['samples']} samples ({facts['data']}), round {facts['round']}"
        lines.append(f"test accuracy {facts['accuracy']:.2%}  loss {facts['loss']:.4f}  on {on}")
    lines.append(
        f"checked on {facts['checked']} samples ({facts['checked_on']}), largest difference {facts['difference']:.3g}"
    )
    if facts["batch"] != "any":
        lines.append("note: this net's graph takes one sample a call")
    if facts["untrained"]:
        lines.append(f"note: {', '.join(facts['untrained'][:3])} ... stay on devices: here they are as they began")
    return lines
