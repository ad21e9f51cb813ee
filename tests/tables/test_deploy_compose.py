"""compose.yaml and the images, read as text: what hardens them and what makes the classes; an engine runs them in
`make check-compose`. And the place that a container takes in the fleet, with real locks.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pleat_client.config import size
from pleat_server.cli import command

DEPLOY = Path(__file__).parents[2] / "deploy"
CLASSES = ("workstation", "jetson", "pi5", "pi4")
DEVICES = (*CLASSES, "client")


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def soft(service: dict[str, Any]) -> list[str]:
    """What of the hardening a service lacks."""
    wanted = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "init": True}
    lacks = [key for key, value in wanted.items() if service.get(key) != value]
    lacks += [key for key in ("healthcheck", "pids_limit", "tmpfs") if not service.get(key)]
    return lacks + [key for key in ("privileged", "cap_add", "devices", "network_mode", "user") if key in service]


@pytest.mark.parametrize("name", ["server", *DEVICES])
def test_every_service_is_hardened(name: str) -> None:
    service = compose()["services"][name]
    assert soft(service) == []
    for key in ("read_only", "cap_drop", "security_opt", "init", "healthcheck", "pids_limit", "tmpfs"):
        assert soft({k: v for k, v in service.items() if k != key}) == [key], "taking it out is noticed"


def test_the_classes_differ_in_cores_and_memory_and_in_nothing_else() -> None:
    services = compose()["services"]
    own = {"cpus", "mem_limit", "memswap_limit", "environment", "volumes"}
    for key in ("cpus", "mem_limit"):
        values = [size(services[name][key].upper() + "iB", key) if key == "mem_limit" else services[name][key]
                  for name in CLASSES]  # fmt: skip
        assert values == sorted(set(values), reverse=True), f"{key} falls from class to class"
    rest = [{k: v for k, v in services[name].items() if k not in own} for name in CLASSES]
    assert all(r == rest[0] for r in rest)
    assert "sleep" not in (DEPLOY / "compose.yaml").read_text().replace("nothing sleeps", "")


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_is_told_the_limit_that_docker_sets(name: str) -> None:
    service = compose()["services"][name]
    limit = size(service["mem_limit"].upper() + "iB", "mem_limit")
    assert size(service["environment"]["PLEAT_MEMORY"], "memory") == limit
    assert service["memswap_limit"] == service["mem_limit"], "no device swaps"


def test_the_private_key_and_the_way_out_are_the_servers_alone() -> None:
    found = compose()
    holders = {n for n, s in found["services"].items() if any(v.startswith("keys:") for v in s["volumes"])}
    assert holders == {"server"}
    assert found["networks"]["fleet"]["internal"] is True
    assert all("handout:/handout:ro" in found["services"][name]["volumes"] for name in DEVICES)
    assert not [n for n, s in found["services"].items() if "ports" in s]


def test_the_servers_words_are_options_of_pleat_serve() -> None:
    words = compose()["services"]["server"]["command"]
    assert words[0] == "pleat-server"
    options = {o for p in command().commands["serve"].params for o in p.opts}  # type: ignore[attr-defined]
    assert {word.split("=")[0] for word in words[1:]} <= options
    assert "--insecure" not in words


@pytest.mark.parametrize("name", ["client", "server"])
def test_an_image_runs_as_nobody_in_particular_from_a_base_that_can_be_chosen(name: str) -> None:
    text = (DEPLOY / f"Dockerfile.{name}").read_text()
    assert text.count("FROM ${BASE}") == 2, "two stages: what builds does not travel"
    assert re.search(r"^ARG BASE=python:3\.\d+-slim-bookworm$", text, re.MULTILINE)
    assert re.search(r"useradd --uid 10001 ", text)
    assert text.index("USER pleat") > text.rindex("RUN ")
    assert "-c constraints.txt" in text
    ignored = (DEPLOY / f"Dockerfile.{name}.dockerignore").read_text().splitlines()
    assert "*" in ignored, "nothing goes into a build but what is named"


def test_the_clients_image_is_made_without_the_server() -> None:
    text = (DEPLOY / "Dockerfile.client").read_text()
    assert "'.[client]'" in text
    assert "COPY server" not in text
    assert "uninstall --yes pip setuptools" in text


@pytest.mark.parametrize("path", ["check-compose.sh", "compose/engine.sh", "compose/prepare.sh", "compose/server.sh"])
def test_the_scripts_parse(path: str) -> None:
    shell = "bash" if path in ("check-compose.sh", "compose/engine.sh") else "sh"
    assert subprocess.run([shell, "-n", DEPLOY / path], check=False).returncode == 0


# A container's place in the fleet.


@pytest.fixture
def device() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pleat_device", DEPLOY / "compose" / "device.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def handout(tmp_path: Path) -> Path:
    folder = tmp_path / "handout"
    folder.mkdir()
    (tmp_path / "state").mkdir()
    for name in ("pi4", "client-0", "client-1", "test"):
        (folder / f"{name}.npz").touch()
    return folder


def test_a_class_takes_its_own_shard_and_replicas_one_each_until_none_is_left(
    device: ModuleType, handout: Path, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    taken = [device.claim(handout, pattern, state) for pattern in ("pi4", "client-*", "client-*", "client-*", "pi4")]
    assert taken == ["pi4", "client-0", "client-1", None, None]
    line = device.missing(handout, "client-*")
    assert "all 2 shards client-* in" in line
    assert "PLEAT_CLIENTS=4 docker compose -f deploy/compose.yaml up --scale client=4" in line


def test_a_claim_outlives_exec_and_ends_with_the_process(device: ModuleType, handout: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    program = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import device; from pathlib import Path\n"
        "assert device.claim(Path(sys.argv[2]), 'pi4', Path(sys.argv[3])) == 'pi4'\n"
        "os.execvp('sh', ['sh', '-c', 'echo ready; read line'])"
    )
    words = [sys.executable, "-B", "-c", program, str(DEPLOY / "compose"), str(handout), str(state)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        assert device.claim(handout, "pi4", state) is None
        holder.kill()
    assert device.claim(handout, "pi4", state) == "pi4"


@pytest.mark.parametrize(("names", "says"), [([], "it is empty"), (["jetson", "test"], "it holds jetson, test")])
def test_a_wrong_volume_is_one_line_and_exit_code_2(tmp_path: Path, names: list[str], says: str) -> None:
    for name in names:
        (tmp_path / f"{name}.npz").touch()
    env = {**os.environ, "PLEAT_HANDOUT": str(tmp_path), "PLEAT_STATE": str(tmp_path), "PLEAT_SHARD": "pi4"}
    words = [sys.executable, str(DEPLOY / "compose" / "device.py"), "run"]
    found = subprocess.run(words, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    assert f"no shard pi4.npz in {tmp_path}: {says}; mount the volume handout" in found.stderr


def test_the_device_is_named_after_its_shard_and_trusts_the_handed_out_certificate(
    device: ModuleType, handout: Path
) -> None:
    words = device.words("client-1", handout, Path("/state"), {"PLEAT_MEMORY": "512MiB"})
    assert words[:4] == ["pleat-client", "run", "--server", "server:8470"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given["--name"] == "client-1"
    assert given["--data"] == str(handout / "client-1.npz")
    assert given["--state"] == "/state/client-1"
    assert given["--ca"] == str(handout / "ca.pem")
    assert given["--memory"] == "512MiB"
    assert "--memory" not in device.words("client-1", handout, Path("/state"), {"PLEAT_MEMORY": ""})


@pytest.mark.parametrize(
    ("told", "code", "says"),
    [
        ({"joined": True, "notice": "", "state": "training"}, 0, "training"),
        ({"joined": False, "notice": "cannot reach server:8470", "state": "idle"}, 1, "cannot reach server:8470"),
        (None, 1, "no device has begun here yet"),
    ],
)
def test_a_device_is_healthy_while_it_is_joined(
    device: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], told: object, code: int, says: str
) -> None:
    chosen = tmp_path / "chosen"
    if told is not None:
        (tmp_path / "status.json").write_text(json.dumps(told))
        chosen.write_text(str(tmp_path))
    assert device.health(chosen) == code
    assert capsys.readouterr().out.strip() == says


def test_the_lock_is_the_kernels(device: ModuleType, handout: Path, tmp_path: Path) -> None:
    with (tmp_path / "state" / "pi4.claim").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert device.claim(handout, "pi4", tmp_path / "state") is None
    assert device.claim(handout, "pi4", tmp_path / "state") == "pi4"
