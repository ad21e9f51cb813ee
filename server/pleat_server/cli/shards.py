"""`pleat shards`: deal a data set out to devices, one .npz file each, and hold some of it out for the server."""

from __future__ import annotations

import shlex
from collections.abc import Set
from pathlib import Path
from typing import Annotated

import typer

from pleat.errors import UseError
from pleat_server.cli import options

MARKS = ("", "<unknown>", "<start>")  # what stands for ids without a word in words.txt


def run(
    source: Annotated[
        str, typer.Argument(help="digits, FILE.npz, FILE.json[.xz] of texts, image folder or torchvision name.")
    ],
    devices: Annotated[int, typer.Option(min=1, help="Number of shards.")] = 4,
    split: Annotated[
        str, typer.Option(help="iid, dirichlet:A, quantity:A, labels:K, client or domain.")
    ] = "dirichlet:0.3",
    noise: Annotated[
        float, typer.Option(help="Blur: standard deviation of noise on the last device, rising from 0 on the first.")
    ] = 0.0,
    holdout: Annotated[float, typer.Option(help="Share held out for the server, in test.npz.")] = 0.2,
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("shards"),
    shape: Annotated[str, typer.Option(help="Reshape every sample, such as 1x28x28.")] = "",
    size: Annotated[int, typer.Option(min=1, help="Edge in pixels that images from files are resized to.")] = 32,
    words: Annotated[int, typer.Option(min=2, help="Tokens that a text is cut or padded to.")] = 32,
    vocabulary: Annotated[int, typer.Option(min=4, help="Token ids of texts, the most frequent words first.")] = 4096,
    root: Annotated[Path, typer.Option(help="Where torchvision keeps its files.")] = Path("data"),
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch what is missing.")] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Make one shard a device: OUT/device-0.npz and on, OUT/test.npz for the server, OUT/words.txt of texts."""
    from pleat.disk import write_atomic
    from pleat.shard import write
    from pleat_server.shards import deal
    from pleat_server.sources import open_source

    opened = open_source(
        source,
        shape=options.shape(shape) or None,
        size=size,
        root=root,
        download=download,
        words=words,
        vocabulary=vocabulary,
    )
    dealt = deal(opened, devices, split, holdout=holdout, noise=noise, seed=seed)
    digits = len(str(devices - 1))
    named = {f"device-{i:0{digits}}.npz": s for i, s in enumerate(dealt.devices)}
    if dealt.test is not None:
        named["test.npz"] = dealt.test
    _ready(out, {*named, *(["words.txt"] if dealt.words else [])})
    if dealt.words:  # line n, from 0, is what id n stands for
        write_atomic(out / "words.txt", "\n".join([*MARKS, *dealt.words, ""]).encode())
    rows = []
    for name, shard in named.items():
        write(out / name, shard)
        rows.append({"file": str(out / name), "samples": len(shard), "labels": list(shard.labels)})
    if json:
        options.dump(rows)
        return
    for row in rows:
        print(f"{row['file']}  {row['samples']} samples of classes {row['labels']}")


def _ready(out: Path, names: Set[str]) -> None:
    """Make the folder `out` for shards called `names`. Raises UseError if it is none, or holds shards of an earlier
    deal under other names: those would stand beside the new ones, whose test samples they may hold."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UseError(f"--out {out}: {error.filename} is a file; name a folder, such as --out shards") from None
    kinds = ("device-*.npz", "test.npz", "words.txt")
    found = {kind: sorted(p.name for p in out.glob(kind) if p.name not in names) for kind in kinds}
    stale = [name for kind in kinds for name in found[kind]]
    if stale:
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        remove = " ".join(f"{shlex.quote(str(out))}/{kind}" for kind in kinds if found[kind] or kind == kinds[0])
        raise UseError(
            f"{out} holds {stale[0]}{more} of another deal, which the new one would not replace; "
            f"name another --out, or remove them: rm {remove}"
        )
