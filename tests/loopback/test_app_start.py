"""A run that cannot begin says why and leaves nothing behind; one that has begun is never thrown away."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pleat.errors import UseError
from pleat.shard import write
from pleat_server import app
from pleat_server.config import RunConfig
from support.digits import digit_shards


@pytest.fixture
def test_data(tmp_path: Path) -> Path:
    path = tmp_path / "test.npz"
    write(path, digit_shards(2)[1])
    return path


def test_a_port_in_use_leaves_no_folder(tmp_path: Path, test_data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UseError, match=address):
            app.serve(RunConfig("elastic", "mlp", tmp_path / "run", data=test_data, listen=address))
    assert not (tmp_path / "run").exists()


UNKNOWN = [("elastic", "mlpp", ""), ("elastik", "mlp", ""), ("elastic", "mlp", "swep")]


@pytest.mark.parametrize(("recipe", "model", "policy"), UNKNOWN)
def test_an_unknown_name_is_told_before_the_server_listens_and_leaves_no_folder(
    tmp_path: Path, recipe: str, model: str, policy: str
) -> None:
    seen: list[Mapping[str, Any]] = []
    config = RunConfig(recipe, model, tmp_path / "runs" / "run", listen="127.0.0.1:0", policy=policy)
    with pytest.raises(UseError, match="did you mean"):
        app.serve(config, seen.append)
    assert seen == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("recipe", "model", "policy"), UNKNOWN)
def test_an_unknown_name_leaves_no_folder_of_a_simulated_run(
    tmp_path: Path, recipe: str, model: str, policy: str
) -> None:
    parts, test = digit_shards(2)
    config = RunConfig(recipe, model, tmp_path / "runs" / "run", policy=policy)
    with pytest.raises(UseError, match="did you mean"):
        app.simulate(config, app.virtual_devices(parts), test)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_a_run_is_not_begun_anew(tmp_path: Path) -> None:
    parts, test = digit_shards(2)
    app.simulate(RunConfig("fedavg", "mlp", tmp_path / "run", rounds=1), app.virtual_devices(parts), test)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    with pytest.raises(UseError, match="pleat resume"):
        app.serve(RunConfig("fedavg", "mlp", tmp_path / "run", listen="127.0.0.1:0"))
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
