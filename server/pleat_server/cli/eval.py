"""`pleat eval`: score a run's model, whole or cut to a width and depth, on any data of its shape."""

from __future__ import annotations

from pleat_server.cli import options


def run(
    folder: options.Run,
    data: options.TestData = None,
    width: options.Size = "1",
    depth: options.Depth = "",
    json: options.Json = False,
) -> None:
    """Score the model a run has come to (its averaged copy, where the recipe keeps one)."""
    from pleat_server.exported import score_run

    result = score_run(folder, data, width, options.depth(depth))
    if json:
        options.dump(result)
        return
    print(
        f"accuracy {result['accuracy']:.2%}  loss {result['loss']:.4f}  on {result['samples']} samples, "
        f"size {result['size']}, round {result['round']}"
    )
