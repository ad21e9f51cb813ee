"""`pleat-client` as its user meets it: one line per mistake, exit codes, status of a live and of a dead daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pleat.errors import UseError
from pleat_client import cli, lock, status


def ran(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--server", "localhost:1"], "no data given; say --data shard.npz"),
        (["run", "--server", "localhost:1", "--data", "/none.npz"], "there is no file /none.npz"),
        (["run", "--memory", "lots", "--server", "a:1", "--data", "x"], "memory: 'lots' is no size"),
        (["status", "--state", "/nonexistent/folder"], "no device has run here; start one with: pleat-client run"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = ran(arguments, capsys)
    assert (code, out) == (2, "")
    assert err.startswith("pleat-client: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize("arguments", [["run", "--colour", "red"], ["fly"], ["run", "--seconds", "soon"]])
def test_what_the_command_line_does_not_know_is_exit_code_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ran(arguments, capsys)[0] == 2


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["status", "--help"]])
def test_help_ends_well(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(arguments, capsys)
    assert code == 0
    assert "pleat-client" in out


def test_the_status_of_a_stopped_device_is_its_last_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status.write(tmp_path, status.Status(name="kitchen-pi", server="s:1", state="training", order="r/3/0", orders=7))
    code, out, _ = ran(["status", "--state", str(tmp_path), "--json"], capsys)
    said = json.loads(out)
    assert code == 0
    assert (said["name"], said["state"], said["pid"], said["orders"]) == ("kitchen-pi", "stopped", None, 7)


def test_the_status_of_a_living_device_has_its_process_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status.write(tmp_path, status.Status(name="kitchen-pi", server="s:1", state="idle"))
    with lock.hold(tmp_path):
        _, out, _ = ran(["status", "--state", str(tmp_path), "--json"], capsys)
        _, text, _ = ran(["status", "--state", str(tmp_path)], capsys)
    said = json.loads(out)
    assert (said["state"], said["pid"]) == ("idle", os.getpid())
    assert said["rss_bytes"] > 0
    assert "kitchen-pi" in text
    assert "celsius" not in text or said["celsius"] is not None


def test_damaged_status_is_a_line_not_a_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / status.NAME).write_bytes(b"{")
    code, _, err = ran(["status", "--state", str(tmp_path)], capsys)
    assert code == 2
    assert "the next start writes it anew" in err


def test_two_daemons_on_one_folder_are_refused_by_name(tmp_path: Path) -> None:
    with (
        lock.hold(tmp_path),
        pytest.raises(UseError, match=rf"in use by another pleat-client \(process {os.getpid()}\).*--state DIR"),
        lock.hold(tmp_path),
    ):
        pass
    assert lock.holder(tmp_path) is None
    with lock.hold(tmp_path):
        assert lock.holder(tmp_path) == os.getpid()


def test_a_lock_dies_with_its_holder_however_it_dies(tmp_path: Path) -> None:
    hold = (
        "from pathlib import Path; from pleat_client import lock\n"
        f"with lock.hold(Path({str(tmp_path)!r})): print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert lock.holder(tmp_path) == process.pid
        process.kill()
        process.wait()
    assert lock.holder(tmp_path) is None


def test_a_full_or_read_only_disk_does_not_stop_the_daemon_from_working(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    status.write(gone, status.Status(name="a", server="s:1"))
    assert not gone.exists()
