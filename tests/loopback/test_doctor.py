"""`pleat-client doctor` as its user meets it: real servers, real certificates, a real torch, and one that crashes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pleat.errors import PleatError
from pleat_client.link_ask import Reached, ask
from pleat_server.carrier import Traffic
from pleat_server.link.tls import server_tls
from support.certificates import Papers, papers
from support.fleet import Fleet, Heard, in_time

ROOT = Path(__file__).resolve().parents[2]


def doctor(folder: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    here = os.pathsep.join([*([path] if path else []), str(ROOT / "common"), str(ROOT / "client")])
    command = [sys.executable, "-m", "pleat_client.cli", "doctor", "--state", str(folder / "state"), *words]
    environment = {**os.environ, "PYTHONPATH": here}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {one["check"]: one for one in json.loads(done.stdout)["findings"]}


@in_time
async def test_this_machine_is_examined_and_the_server_asked_without_a_seat(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        fleet.carrier.smallest = 5 << 20
        done = await asyncio.to_thread(doctor, tmp_path, "--server", fleet.address, "--json")
        assert fleet.carrier.devices() == {}
        assert fleet.carrier.poll(0.0) == []
        traffic = fleet.carrier.traffic()
    found = findings(done)
    assert done.stderr == ""
    assert found["torch"]["mark"] == "ok", found["torch"]
    assert found["torch"]["facts"]["idle_bytes"] > 50 << 20
    assert found["server"]["mark"] == "ok", found["server"]
    assert found["server"]["facts"]["run"] == "run-1"
    assert 0 < found["server"]["facts"]["rtt_s"] < 1
    assert found["server"]["facts"]["up_bytes_s"] > 1e6
    assert found["server"]["facts"]["down_bytes_s"] > 1e6
    need = found["torch"]["facts"]["idle_bytes"] + 1.15 * (5 << 20) + (50 << 20)
    assert found["memory"]["facts"]["need"] == int(need)
    assert traffic[""].up > 1_000_000, "what was asked is counted, and to nobody"
    assert isinstance(traffic[""], Traffic)
    assert not (tmp_path / "state").exists(), "the doctor leaves nothing behind"


def test_a_torch_that_dies_of_an_illegal_instruction_is_a_failure_with_a_version_that_works(tmp_path: Path) -> None:
    package = tmp_path / "broken" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    done = doctor(tmp_path, path=str(package.parent))
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("fail")]
    assert "dies of an illegal instruction (SIGILL)" in line
    assert "pip install --force-reinstall 'torch==2.9.1'" in done.stdout


def asked(papers_: Papers | None, options: dict[str, Any], folder: Path) -> Reached | PleatError:
    """What asking a real server comes to."""

    async def ask_it() -> Reached | PleatError:
        tls = server_tls(papers_.cert, papers_.key) if papers_ else None
        async with Fleet(folder, tls=tls) as fleet:
            try:
                return await asyncio.to_thread(ask, fleet.address, options.get("ca"), False)
            except PleatError as error:
                return error

    return asyncio.run(ask_it())


CASES: dict[str, tuple[Callable[[Path], tuple[Papers | None, Path | None]], str]] = {
    "own": (lambda f: ((p := papers(f / "p")), p.ca), ""),
    "expired": (lambda f: ((p := papers(f / "p", days=-1)), p.ca), "has run out; see its dates with: openssl s_client"),
    "another host": (
        lambda f: ((p := papers(f / "p", host="10.9.8.7")), p.ca),
        "shows the certificate of another host",
    ),
    "another authority": (lambda f: (papers(f / "p"), papers(f / "q").ca), "is not signed by the authority in --ca"),
    "authority of another name": (
        lambda f: (papers(f / "p"), papers(f / "q", by="x").ca),
        "is not signed by the authority",
    ),
    "plain server": (lambda f: (None, papers(f / "q").ca), "speaks plain text; start the server with --cert"),
    "plain device": (lambda f: (papers(f / "p"), None), "if it was started with --cert, say --ca FILE here"),
    "neither": (lambda f: (None, None), ""),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong_with_a_certificate_is_named(name: str, tmp_path: Path) -> None:
    build, says = CASES[name]
    server, ca = build(tmp_path)
    found = asked(server, {"ca": ca}, tmp_path)
    assert isinstance(found, PleatError) is bool(says), found
    assert says in str(found)
    assert "\n" not in str(found)


@in_time
async def test_the_daemons_link_says_the_same_of_another_hosts_certificate(tmp_path: Path) -> None:
    other = papers(tmp_path / "p", host="10.9.8.7")
    async with Fleet(tmp_path, tls=server_tls(other.cert, other.key)) as fleet:
        heard = Heard()
        fleet.device("a", heard, ca=other.ca)
        assert "shows the certificate of another host; see for whom" in (await heard.until("lost"))[1]


@in_time
async def test_a_daemon_whose_server_is_not_there_is_told_what_to_type_next(tmp_path: Path) -> None:
    async with Fleet(tmp_path) as fleet:
        heard = Heard()
        fleet.device("a", heard, address="127.0.0.1:1")
        lost = (await heard.until("lost"))[1]
    assert lost.startswith("cannot reach 127.0.0.1:1: ")
    assert lost.endswith("Look closer with: pleat-client doctor --server 127.0.0.1:1")


@in_time
async def test_a_name_that_nobody_knows_is_told_from_a_server_that_is_down(tmp_path: Path) -> None:
    ca = papers(tmp_path / "p").ca
    with pytest.raises(PleatError, match=r"the name in nowhere\.invalid:1 is not known here"):
        await asyncio.to_thread(ask, "nowhere.invalid:1", ca, False)


def test_a_server_that_is_not_there_fails_with_what_to_look_at(tmp_path: Path) -> None:
    found = findings(doctor(tmp_path, "--server", "127.0.0.1:1", "--json"))["server"]
    assert found["mark"] == "fail"
    assert "cannot reach 127.0.0.1:1: " in found["says"]
    assert "ss -ltn | grep 1" in found["remedy"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--server", "nowhere"], "is not HOST:PORT"),
        (["--memory", "lots"], "memory: 'lots' is no size"),
        (["--config", "none.toml"], "settings none.toml: cannot be read"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path: Path, words: list[str], says: str) -> None:
    done = doctor(tmp_path, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says in done.stderr


def test_settings_come_from_the_same_file_as_for_run(tmp_path: Path) -> None:
    (tmp_path / "client.toml").write_text('server = "127.0.0.1:1"\nstate = "elsewhere"\nmemory = "1MiB"\n')
    found = findings(doctor(tmp_path, "--config", "client.toml", "--json"))
    assert found["server"]["facts"]["server"] == "127.0.0.1:1"
    assert found["memory"]["facts"]["budget"] == 1 << 20
    assert found["memory"]["mark"] == "fail"
