"""Settings of a device: the file, the command line over it, and every mistake as one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pleat.errors import UseError
from pleat_client import config

NOWHERE = Path("/nonexistent/client.toml")


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "shard.npz"
    path.write_bytes(b"x")
    return path


def given(shard: Path, **more: Any) -> dict[str, Any]:
    return {"server": "localhost:8440", "data": shard, "name": "kitchen-pi", "state": shard.parent / "state", **more}


@pytest.mark.parametrize(
    ("text", "count"),
    [("300MiB", 300 * 2**20), ("2MB", 2_000_000), ("1.5GiB", 3 * 2**29), ("500kB", 500_000), (" 7 B", 7), (4096, 4096)],
)
def test_sizes_have_units(text: object, count: int) -> None:
    assert config.size(text, "memory") == count


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "3 parsecs", "1e6", "nan", True, "2 MB 3"])
def test_what_is_no_size_is_refused_by_name(text: object) -> None:
    with pytest.raises(UseError, match=r"upload: .* is no size; write bytes or a unit, such as 300MiB"):
        config.size(text, "upload")


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(UseError, match="leave memory out for no limit"):
        config.size("0.2", "memory")


def test_what_is_not_said_has_no_limit(shard: Path) -> None:
    found = config.load(given(shard), system=NOWHERE)
    assert found.budgets == config.Budgets()
    assert (found.holdout, found.insecure, found.ca) == (0.1, False, None)


def test_the_command_line_wins_over_the_file_and_paths_lie_beside_it(shard: Path) -> None:
    file = shard.parent / "client.toml"
    file.write_text('server = "there:1"\ndata = "shard.npz"\nname = "a"\nmemory = "300MiB"\nupload = 2000\n')
    found = config.load({"name": "b", "server": None, "upload": "3MB"}, file, env={"HOME": "/home/pi"})
    assert (found.server, found.name, found.data) == ("there:1", "b", shard)
    assert found.budgets == config.Budgets(300 * 2**20, None, 3_000_000, None)
    assert found.state == Path("/home/pi/.local/state/pleat/b")


def test_the_system_file_is_read_only_where_no_other_is_named(shard: Path) -> None:
    system, other = shard.parent / "system.toml", shard.parent / "other.toml"
    system.write_text('name = "system"\n')
    other.write_text('name = "other"\n')
    assert config.load({**given(shard), "name": None}, system=system).name == "system"
    assert config.load({**given(shard), "name": None}, other, system).name == "other"


def test_a_service_keeps_its_state_where_systemd_says() -> None:
    assert config.default_state("a", {"STATE_DIRECTORY": "/var/lib/pleat", "HOME": "/root"}) == Path("/var/lib/pleat")
    assert config.default_state("a", {"XDG_STATE_HOME": "/s"}) == Path("/s/pleat/a")


def test_who_only_looks_finds_the_services_folder_where_the_user_has_none_of_its_own(tmp_path: Path) -> None:
    service, home = tmp_path / "service", {"HOME": str(tmp_path)}
    own = tmp_path / ".local/state/pleat/a"

    def looked_at(**more: Any) -> Path:
        return Path(config.told({"name": "a", **more}, system=NOWHERE, env=home, service=service)["state"])

    assert looked_at() == own, "there is no service"
    service.mkdir()
    assert looked_at() == service
    assert looked_at(state=tmp_path / "named") == tmp_path / "named"
    own.mkdir(parents=True)
    assert looked_at() == own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sever = "x:1"', "unknown key 'sever'; did you mean 'server'\\?"),
        ('sever = "x:1"', r"edit it: \$\{EDITOR:-nano\} .*client\.toml"),
        ("x = 3", "unknown key 'x'; known are server, data"),
        ("memory = [", "no TOML"),
        ("holdout = 'much'", "holdout"),
        ("insecure = 'yes'", "insecure"),
    ],
)
def test_a_wrong_file_is_told_with_its_name(shard: Path, text: str, message: str) -> None:
    file = shard.parent / "client.toml"
    file.write_text(text)
    with pytest.raises(UseError, match=message):
        config.load(given(shard), file)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"server": None}, "no server given; say --server HOST:PORT"),
        ({"data": None}, "no data given; say --data shard.npz"),
        ({"server": "localhost"}, "expected host:port"),
        ({"server": "localhost:0"}, "expected host:port"),
        ({"server": "localhost:99999"}, "expected host:port"),
        ({"server": ":80"}, "expected host:port"),
        ({"data": Path("/nonexistent.npz")}, "data: there is no file /nonexistent.npz; make shards with: pleat shards"),
        ({"ca": Path("/nonexistent.pem")}, "ca: there is no file /nonexistent.pem"),
        ({"name": "a/b"}, "is no device name"),
        ({"name": "x" * 64}, "is no device name"),
        ({"holdout": 1.0}, "holdout: 1.0 is no share"),
        ({"holdout": float("nan")}, "holdout: nan is no share"),
        ({"seconds": 0.0}, "seconds: 0.0 is no time"),
        ({"seconds": float("nan")}, "seconds: nan is no time"),
        ({"idle": -1.0}, "idle: -1.0 is no time"),
        ({"threads": -1}, "threads: -1"),
        ({"memory": 300}, "memory: 300 bytes hold no trainer; is 300MiB meant"),
        ({"accelerator": "gpu"}, "accelerator: 'gpu' is none; expected auto, cpu, cuda"),
    ],
)
def test_each_wrong_value_is_one_clear_line(shard: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UseError, match=message) as caught:
        config.load(given(shard, **more), system=NOWHERE)
    assert "\n" not in str(caught.value)


def test_a_missing_settings_file_is_told(shard: Path) -> None:
    with pytest.raises(UseError, match=r"settings .*none\.toml: cannot be read"):
        config.load(given(shard), shard.parent / "none.toml")
