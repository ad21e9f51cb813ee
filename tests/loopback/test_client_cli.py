"""`pleat-client` as its user meets it: one line per mistake, exit codes, status of a live and of a dead daemon."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pleat.errors import UseError
from pleat.exchange.order import OrderId
from pleat.exchange.report import Budgets
from pleat_client import cli, lock, pipe, status
from pleat_client.store import Store


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
        (["run", "--colour", "red"], "No such option"),
        (["run", "--dat", "x"], "See `pleat-client run --help`"),
        (["fly"], "No such command 'fly'. See `pleat-client --help`"),
        (["ru"], "No such command 'ru'. Did you mean 'run'? See `pleat-client --help`"),
        (["run", "--seconds", "soon"], "'soon' is not a valid float"),
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


DONE = status.Done(
    order="r/3/0", outcome="done", width=0.125, seconds=4.2, bytes_down=52000, bytes_up=1400, answer="acked", at=1.0
)


def test_status_shows_what_it_does_now_its_rounds_budgets_and_residual(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = status.Status(
        name="kitchen-pi",
        server="s:1",
        state="training",
        joined=True,
        run="r",
        order="r/4/0",
        progress=0.42,
        loss=1.5,
        budgets=Budgets(memory_bytes=300 << 20, upload_bytes=2 << 20),
        rounds=(
            DONE,
            msgspec.structs.replace(DONE, order="r/4/1", outcome="refused", reason="does not fit", width=None),
        ),
        residual=pipe.Residual(4096, 512, 0.25),
    )
    status.write(tmp_path, said)
    Store(tmp_path).stage(OrderId("r", 2, 0), bytes(1000))
    with lock.hold(tmp_path):
        _, out, _ = ran(["status", "--state", str(tmp_path)], capsys)
        _, told, _ = ran(["status", "--state", str(tmp_path), "--json"], capsys)
    for words in (
        "kitchen-pi, training r/4/0 42% done loss 1.500 (process ",
        "s:1, joined run r",
        "memory 300 MiB, 2 MiB up",
        "512 entries, norm 0.25, state of 4 KiB",
        "1 report, ",
    ):
        assert words in out
    rows = [line.split() for line in out.splitlines() if line.startswith("r/")]
    assert rows[0][:6] == ["r/3/0", "done", "0.125", "4.2", "50.78", "KiB"]
    assert rows[1][:3] == ["r/4/1", "refused", "4.2"], "what was not trained has no width"
    assert out.rstrip().endswith("does not fit")
    found = json.loads(told)
    assert (found["unsent"], found["unsent_bytes"]) == (1, 1000)
    assert found["kept_bytes"] > 1000
    assert found["budgets"]["seconds"] is None
    assert found["rounds"][0]["width"] == 0.125


def test_a_dead_device_makes_no_progress(tmp_path: Path) -> None:
    status.write(tmp_path, status.Status(name="a", server="s:1", state="training", progress=0.5, loss=1.0))
    found = status.read(tmp_path)
    assert (found["state"], found["progress"], found["loss"]) == ("stopped", None, None)


def test_a_folder_of_another_user_is_told_with_how_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    code, _, err = ran(["status", "--state", str(tmp_path)], capsys)
    assert (code, err.count("\n")) == (2, 1)
    assert f"sudo pleat-client status --state {tmp_path}" in err


def test_words_of_an_older_daemon_are_still_read(tmp_path: Path) -> None:
    (tmp_path / status.NAME).write_bytes(b'{"name":"a","server":"s:1","state":"idle"}')
    found = status.read(tmp_path)
    assert (len(found["rounds"]), found["residual"], found["progress"]) == (0, None, None)


def test_rounds_are_kept_up_to_a_number_and_outlive_a_restart(tmp_path: Path) -> None:
    now = status.Status(name="a", server="s:1", residual=pipe.Residual(1, 2, 3.0))
    for number in range(status.KEPT + 3):
        done = msgspec.structs.replace(DONE, order=f"r/{number}/0", answer="")
        now = msgspec.structs.replace(now, rounds=status.ended(now, done))
    assert [r.order for r in now.rounds] == [f"r/{n}/0" for n in range(3, status.KEPT + 3)]
    now = msgspec.structs.replace(now, rounds=status.answered(now, "r/5/0", "returned"))
    assert [r.answer for r in now.rounds if r.order in ("r/4/0", "r/5/0")] == ["", "returned"]
    status.write(tmp_path, now)
    again = status.begun(tmp_path, status.Status(name="b", server="s:2"))
    assert (again.name, again.rounds, again.residual) == ("b", now.rounds, now.residual)
    (tmp_path / status.NAME).write_bytes(b"{")
    assert status.begun(tmp_path, now) == now


def test_status_finds_the_folder_that_the_settings_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "client.toml").write_text('state = "kept"\n')
    (tmp_path / "kept").mkdir()
    status.write(tmp_path / "kept", status.Status(name="a", server="s:1"))
    code, out, _ = ran(["status", "--config", str(tmp_path / "client.toml")], capsys)
    assert (code, str(tmp_path / "kept") in out) == (0, True)


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
