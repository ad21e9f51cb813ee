"""The daemon as a process, with the real worker under it and the real server end before it: every way an order ends."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pleat.exchange.report import Outcome
from pleat_client import status
from pleat_client.probe import memory
from pleat_server.carrier import Joined, Reported
from support.device import ENDLESS, Device, Lab, Server, train_order, waiting


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Device]]:
    """One server and one device for the tests that leave both alive; each test has its own round."""
    lab = Lab(tmp_path_factory.mktemp("pair"))
    try:
        server, device = lab.joined()
        yield server, device
        assert device.stop() == 0
        assert device.children() == []
    finally:
        lab.close()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    made.close()


def test_an_order_becomes_a_report_and_the_acknowledgement_clears_it(pair: tuple[Server, Device]) -> None:
    server, device = pair
    report = server.done(train_order(1))
    assert (report.outcome, report.reason, report.device, report.samples) == (Outcome.DONE, "", "a", 36)
    assert [payload.name for payload in report.payloads] == ["update"]
    assert report.seconds.train > 0
    assert report.seconds.build > 0
    assert report.peak_bytes is not None
    assert report.peak_bytes > 100 * 2**20
    for _ in waiting():
        if not device.unanswered():
            break


def test_status_tells_the_width_bytes_and_answer_of_an_order_and_what_is_left_in_the_residual(
    pair: tuple[Server, Device],
) -> None:
    server, device = pair
    server.done(train_order(30, coded="topk:0.05/lloyd:4"))
    for _ in waiting():
        said = status.read(device.state)
        if said["rounds"] and said["rounds"][-1]["order"].split("/")[1] == "30" and said["rounds"][-1]["answer"]:
            break
    last = said["rounds"][-1]
    assert (last["outcome"], last["width"], last["answer"]) == ("done", 1.0, "acked")
    assert last["bytes_down"] > 200_000  # 51 k parameters, raw
    assert 1_000 < last["bytes_up"] < 20_000
    assert last["seconds"] > 0
    assert said["residual"]["entries"] > 40_000  # a twentieth was sent
    assert said["residual"]["norm"] > 0
    assert said["unsent"] == 0


def test_the_daemon_itself_loads_neither_torch_nor_numpy(pair: tuple[Server, Device]) -> None:
    maps = Path(f"/proc/{pair[1].process.pid}/maps").read_text()
    assert "grpc" in maps
    assert not re.search(r"torch|numpy", maps)


def test_the_profile_is_measured_and_not_guessed(pair: tuple[Server, Device]) -> None:
    profile = pair[0].carrier.devices()["a"].profile
    assert (profile.samples, profile.holdout, profile.input_shape, profile.classes) == (36, 4, (1, 8, 8), 10)
    assert profile.memory_bytes == memory.total_bytes()
    assert profile.torch
    assert profile.budgets.memory_bytes is None


def test_a_cancelled_order_stops_within_about_a_second_and_nothing_of_it_is_sent(pair: tuple[Server, Device]) -> None:
    server, device = pair
    endless = train_order(2, ENDLESS)
    server.send(endless)
    device.until_training()
    began = time.monotonic()
    server.carrier.cancel(endless.id)
    for _ in waiting():
        if '"state":"idle"' in (device.state / "status.json").read_text():
            break
    assert time.monotonic() - began < 5, "a second, on a machine that is not busy"
    report = server.done(train_order(3))
    assert report.outcome is Outcome.DONE
    assert not server.spool.has(endless.id)
    assert endless.id not in device.unanswered()


def test_a_child_killed_by_the_kernel_is_reported_so_and_the_daemon_lives(pair: tuple[Server, Device]) -> None:
    server, device = pair
    order = train_order(4, ENDLESS)
    server.send(order)
    os.kill(device.until_training(), signal.SIGKILL)
    report = server.reported(order)
    assert report.outcome is Outcome.KILLED
    assert "killed by the kernel" in report.reason
    assert not report.payloads
    assert server.done(train_order(5)).outcome is Outcome.DONE
    assert device.process.poll() is None


def test_an_order_that_is_not_understood_is_refused_with_a_reason(pair: tuple[Server, Device]) -> None:
    server, _ = pair
    order = train_order(6)
    report = server.done(replace(order, net=replace(order.net, digest=bytes(32))))
    assert report.outcome is Outcome.REFUSED
    assert "digest" in report.reason


def test_a_newer_order_overtakes_the_one_being_done(pair: tuple[Server, Device]) -> None:
    server, device = pair
    server.send(train_order(7, ENDLESS))
    device.until_training()
    assert server.done(train_order(8)).outcome is Outcome.DONE


def test_what_cannot_fit_is_refused_before_it_starts_with_the_numbers(pair: tuple[Server, Device]) -> None:
    report = pair[0].done(train_order(9, memory=1 << 45))
    assert report.outcome is Outcome.REFUSED
    assert "33554432 MiB" in report.reason


def test_its_status_can_be_read_while_it_runs(pair: tuple[Server, Device], capsys: pytest.CaptureFixture[str]) -> None:
    from pleat_client import cli

    with pytest.raises(SystemExit):
        cli.main(["status", "--state", str(pair[1].state), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert (said["name"], said["pid"], said["joined"], said["run"]) == ("a", pair[1].process.pid, True, "run-1")
    assert said["rss_bytes"] > 20 * 2**20


def test_a_second_daemon_on_the_same_folder_is_refused(pair: tuple[Server, Device]) -> None:
    server, device = pair
    second = Device(device.folder, server.address)
    assert second.ended() == 2
    assert f"in use by another pleat-client (process {device.process.pid})" in device.log


def test_a_second_device_of_the_same_name_ends_with_a_line_and_exit_code_two(pair: tuple[Server, Device]) -> None:
    server, device = pair
    other = Device(device.folder.parent / "other", server.address)
    assert other.ended() == 2
    assert other.log.splitlines()[-1].startswith(f"pleat-client: {server.address} refuses this device")
    assert server.done(train_order(10)).outcome is Outcome.DONE


def test_a_staged_report_outlives_daemon_and_server_and_is_sent_once_more_without_training(lab: Lab) -> None:
    server, device = lab.joined()
    order = train_order(1, 2000)
    server.send(order)
    device.until_training()
    server.close()
    for _ in waiting():
        if device.unanswered():
            break
    device.stop(signal.SIGKILL)
    assert device.unanswered() == [order.id]
    again = lab.server(server.address)
    again.desk.open[order.id] = "a"
    back = lab.device(again.address)
    assert again.await_(Reported).order_id == order.id
    for _ in waiting():
        if not back.unanswered():
            break
    assert '"orders":0' in (back.state / "status.json").read_text(), "it was not trained a second time"
    assert back.stop(signal.SIGINT) == 130


def test_a_daemon_killed_hard_leaves_no_child_behind(lab: Lab) -> None:
    server, device = lab.joined()
    server.send(train_order(1, ENDLESS))
    child = device.until_training()
    device.stop(signal.SIGKILL)
    for _ in waiting():
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            break
    assert device.unanswered() == [], "it will be asked for again"


def test_a_daemon_starts_before_its_server_and_ends_cleanly_in_the_middle_of_an_order(lab: Lab) -> None:
    first = lab.server()
    first.close()
    device = lab.device(first.address, "--idle", "0.5")
    for _ in waiting():
        if "link=away" in device.log and not device.children():
            break  # it waits, and the child has left for want of orders
    server = lab.server(first.address)
    server.await_(Joined)
    order = train_order(1, ENDLESS)
    server.send(order)
    device.until_training()
    began = time.monotonic()
    assert device.stop() == 0
    assert time.monotonic() - began < 10, "two seconds, on a machine that is not busy"
    report = server.reported(order)
    assert (report.outcome, report.reason) == (Outcome.ABORTED, "the daemon was stopped")
    assert device.unanswered() == [], "the server had answered before the daemon left"


def test_an_order_given_up_without_a_server_is_told_at_the_next_start_and_not_done(lab: Lab) -> None:
    server, device = lab.joined()
    order = train_order(1, ENDLESS)
    server.send(order)
    device.until_training()
    server.close()
    for _ in waiting():
        if "link=away" in device.log:
            break
    assert device.stop() == 0
    assert device.unanswered() == [order.id]
    again = lab.server(server.address)
    again.desk.open[order.id] = "a"
    back = lab.device(again.address)
    assert again.reported(order).outcome is Outcome.ABORTED
    assert '"orders":0' in (back.state / "status.json").read_text()


def test_a_shard_that_cannot_be_used_is_one_line_and_exit_code_two(lab: Lab) -> None:
    shard = lab.folder / "shard.npz"
    np.savez(shard, x=np.full((4, 1, 8, 8), np.nan, np.float32), y=np.zeros(4, np.int64))
    device = lab.device("127.0.0.1:1", shard=shard)
    assert device.ended() == 2
    assert device.log.startswith(f"pleat-client: shard {shard}")
    assert device.log.count("\n") == 1
