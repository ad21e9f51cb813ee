"""The device table: hard budgets with their reasons, caps learnt from refusals and kills, and failing closed."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.exchange.report import Budgets, Heartbeat, Measured, Profile, Seconds
from pleat_server.plan.budgets import feasible
from pleat_server.plan.cost import CostFit
from pleat_server.plan.devices import Table
from pleat_server.plan.situation import survey
from support.planning import MIB, RECIPE, ladder, row, table

ROWS = ladder(1.0, 0.5, 0.25, 0.125)


def _fit(known: Table, number: int = 1) -> tuple[list[int], str]:
    good, why = feasible(known["pi"], ROWS, RECIPE, number)
    return [r for r, g in enumerate(good) if g], why


BUDGETS = [
    (Budgets(), [0, 1, 2, 3]),
    (Budgets(memory_bytes=200 * MIB + round(1.15 * 50 * MIB)), [1, 2, 3]),  # empty + 1.15 x what the row adds
    (Budgets(memory_bytes=200 * MIB + round(1.15 * 50 * MIB) - 1), [2, 3]),
    (Budgets(upload_bytes=1_000_000), [2, 3]),
    (Budgets(upload_bytes=999_999), [3]),
    (Budgets(download_bytes=2_000_000), [1, 2, 3]),
    (Budgets(seconds=16.1), [0, 1, 2, 3]),  # 64 GMAC at .1 s = 6.4 s, 4 MB each way at 10 Mbit/s = 6.4 s; 12.8 in all
    (Budgets(seconds=12.8), [0, 1, 2, 3]),
    (Budgets(seconds=12.7), [1, 2, 3]),
    (Budgets(seconds=3.3, upload_bytes=600_000), [3]),
]


@pytest.mark.parametrize(("budgets", "expected"), BUDGETS)
def test_a_row_is_offered_exactly_if_every_budget_holds(budgets: Budgets, expected: list[int]) -> None:
    assert _fit(table("pi", budgets=budgets))[0] == expected


def test_the_boards_memory_is_a_limit_too() -> None:
    assert _fit(table("pi", memory_bytes=230 * MIB))[0] == [2, 3]
    assert _fit(table("pi", memory_bytes=230 * MIB, budgets=Budgets(memory_bytes=900 * MIB)))[0] == [2, 3]


MISSES = [
    (
        Budgets(upload_bytes=400_000),
        ["nearest is size 0.125", "488 KiB of upload", "budget 391 KiB", "raise --upload"],
    ),
    (Budgets(download_bytes=100), ["488 KiB of download", "budget 100 bytes", "raise --download"]),
    (Budgets(memory_bytes=210 * MIB), ["214 MiB of memory", "limit 210 MiB", "raise --memory"]),
    (Budgets(seconds=0.5), ["1.6 s", "budget 0.5 s", "raise --seconds"]),
    (Budgets(seconds=0.5, upload_bytes=10), ["1.6 s", " and ", "of upload"]),
]


@pytest.mark.parametrize(("budgets", "words"), MISSES)
def test_where_nothing_fits_the_nearest_miss_is_told(budgets: Budgets, words: list[str]) -> None:
    fitting, why = _fit(table("pi", budgets=budgets))
    assert fitting == []
    assert why.startswith("idle: nothing fits pi; ")
    for word in words:
        assert word in why
    assert "\n" not in why


def test_a_budget_of_seconds_needs_a_timing() -> None:
    untimed = Table().join("pi", "00", Profile(samples=320, budgets=Budgets(seconds=1e6)))
    fitting, why = _fit(untimed)
    assert fitting == []
    assert "timing" in why
    without = Table().join("pi", "00", Profile(samples=320))
    assert _fit(without)[0] == [0, 1, 2, 3]


def test_rows_that_cost_no_number_fit_no_budget_that_was_set() -> None:
    unknown = replace(row(0, 1.0), up_bytes=math.nan)  # type: ignore[arg-type]
    limited, free = table("pi", budgets=Budgets(upload_bytes=1 << 40)), table("pi")
    assert feasible(limited["pi"], (unknown,), RECIPE)[0] == (False,)
    assert feasible(free["pi"], (ROWS[3], unknown), RECIPE)[0][0]


def test_an_empty_trainer_nobody_measured_is_taken_to_be_large() -> None:
    known = table("pi", memory_bytes=340 * MIB)
    guessed = Table({"pi": replace(known["pi"], base_bytes=None)})
    assert _fit(known)[0] == [0, 1, 2, 3]
    assert _fit(guessed)[0] == [3]


def test_after_a_refusal_the_next_row_is_smaller_for_a_while() -> None:
    known = table("pi").refused("pi", ROWS[1], 3)
    assert _fit(known, 4)[0] == [2, 3]
    assert _fit(known, 8)[0] == [2, 3]
    assert _fit(known, 9)[0] == [0, 1, 2, 3]


def test_after_a_kill_the_next_row_is_smaller_and_each_further_strike_lasts_longer() -> None:
    known = table("pi").killed("pi", ROWS[0], 1)
    assert _fit(known, 21)[0] == [1, 2, 3]
    assert _fit(known, 22)[0] == [0, 1, 2, 3]
    again = known.killed("pi", ROWS[0], 22)
    assert _fit(again, 62)[0] == [1, 2, 3]
    assert _fit(again, 63)[0] == [0, 1, 2, 3]


def test_a_kill_under_a_cap_lowers_it_and_the_smallest_row_killed_leaves_nothing() -> None:
    known = table("pi").killed("pi", ROWS[1], 1).killed("pi", ROWS[2], 2)
    assert _fit(known, 3)[0] == [3]
    fitting, why = _fit(known.killed("pi", ROWS[3], 3), 4)
    assert fitting == []
    assert "12.5 MiB above the empty trainer" in why


def test_rejoining_keeps_what_was_learnt_and_new_limits_lift_the_cap() -> None:
    known = table("pi").killed("pi", ROWS[0], 1).leave("pi")
    assert not known["pi"].here
    same = known.join("pi", known["pi"].identity, known["pi"].profile)
    assert same["pi"].here
    assert _fit(same, 2)[0] == [1, 2, 3]
    more = known.join("pi", known["pi"].identity, replace(known["pi"].profile, memory_bytes=1 << 34))
    assert _fit(more, 2)[0] == [0, 1, 2, 3]
    other = known.join("pi", "ff", Profile(samples=320))
    assert other["pi"].cost is None


def test_a_timing_fits_speed_and_the_empty_trainers_memory() -> None:
    known = Table().join("pi", "00", Profile(samples=320, budgets=Budgets(memory_bytes=330 * MIB, seconds=20.0)))
    sizes = [
        (r, Measured(step_s=0.01 + 0.1 * r.own_macs * 32 / 1e9, peak_bytes=200 * MIB + r.memory_bytes)) for r in ROWS
    ]
    timed = known.measured("pi", sizes, batch=32)
    fit = timed["pi"].cost
    assert fit is not None
    assert fit.theta == pytest.approx((0.01, 0.1))
    assert timed["pi"].base_bytes == 200 * MIB
    assert _fit(timed)[0] == [0, 1, 2, 3]
    assert known.measured("pi", [], batch=32)["pi"].cost is None


def test_a_report_teaches_speed_link_memory_value_and_rows() -> None:
    known = table("pi")
    for _ in range(12):
        known = known.observed(
            "pi",
            ROWS[1],
            Seconds(wait=5.0, down=0.5, build=0.1, train=6.2, encode=0.1, up=1.0),
            samples=320,
            epochs=2,
            batch=32,
            up_bytes=ROWS[1].up_bytes,
            down_bytes=ROWS[1].down_bytes,
            peak_bytes=300 * MIB,
            value=0.0,
        )
    pi = known["pi"]
    assert pi.cost is not None
    assert pi.cost.predict(ROWS[1], 320, 2, 32) == pytest.approx(6.4, rel=0.05)
    assert pi.link.up.planned == pytest.approx(2e6)
    assert pi.link.down.planned == pytest.approx(4e6)
    assert pi.base_bytes == 250 * MIB
    assert pi.value == pytest.approx(0.95**12)
    assert pi.rows == (1,) * 10
    assert len(pi.errors) == 10


def test_memory_is_raised_at_once_and_lowered_slowly() -> None:
    def after(known: Table, peak: int | None) -> int | None:
        seconds = Seconds(train=1.0)
        return known.observed("pi", ROWS[3], seconds, samples=320, epochs=2, batch=32, peak_bytes=peak)["pi"].base_bytes

    added = ROWS[3].memory_bytes
    assert after(table("pi"), 300 * MIB + added) == 300 * MIB
    assert after(table("pi"), 100 * MIB + added) == 190 * MIB
    assert after(table("pi"), None) == 200 * MIB


def test_predictions_that_stay_wrong_are_corrected_in_the_plan() -> None:
    known = table("pi")
    off = Table({"pi": replace(known["pi"], errors=(math.log(2.0),) * 10)})
    straight, _ = survey(known, ["pi"], ROWS, RECIPE, 1, 0)
    corrected, _ = survey(off, ["pi"], ROWS, RECIPE, 1, 0)
    assert corrected.times == pytest.approx(2 * straight.times)


def test_a_survey_agrees_with_every_device_by_itself_and_tells_why_some_idle() -> None:
    names = [f"d{i}" for i in range(len(BUDGETS))]
    known = Table({n: replace(table(n, budgets=b)[n]) for n, (b, _) in zip(names, BUDGETS, strict=True)})
    known = Table({**known.devices, "idle": table("idle", budgets=Budgets(upload_bytes=1))["idle"]})
    situation, idle = survey(known, [*names, "idle"], ROWS, RECIPE, 1, 0)
    assert situation.devices == tuple(sorted([*names, "idle"]))
    for place, name in enumerate(situation.devices):
        assert tuple(situation.feasible[place]) == feasible(known[name], ROWS, RECIPE, 1)[0]
    assert list(idle) == ["idle"]
    told = known.idled(idle, situation.devices)
    assert told["idle"].idle.startswith("idle: nothing fits")
    assert told["d0"].idle == ""


def test_a_device_that_was_never_timed_is_taken_to_be_the_fleets_median() -> None:
    known = Table({**table("fast", "slow").devices, "new": Table().join("new", "00", Profile(samples=320))["new"]})
    slow = replace(known["slow"], cost=CostFit.guess((0.0, 0.3)))
    situation, _ = survey(Table({**known.devices, "slow": slow}), list(known.devices), ROWS, RECIPE, 1, 0)
    new, link = situation.times[situation.devices.index("new")], 8e6 / 1.25e6
    assert new[0] == pytest.approx(64 * 0.2 + link)


def test_surveying_nobody_is_an_empty_situation() -> None:
    situation, idle = survey(Table(), [], ROWS, RECIPE, 1, 0)
    assert situation.devices == ()
    assert idle == {}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.01, 50), st.floats(0, 1)), max_size=15))
def test_the_table_survives_json_whatever_it_lived_through(rounds: list[tuple[int, float, float]]) -> None:
    known = table("pi", "nano", budgets=Budgets(memory_bytes=400 * MIB)).pulse("pi", Heartbeat(celsius=61.5))
    for number, (place, seconds, value) in enumerate(rounds):
        times = Seconds(down=seconds / 7, train=seconds, up=seconds / 3)
        known = known.observed("pi", ROWS[place], times, samples=320, epochs=2, batch=32, up_bytes=9, value=value)
        known = known.killed("nano", ROWS[place], number) if place == 2 else known
    assert Table.from_plain(json.loads(json.dumps(known.to_plain(), allow_nan=False))) == known
    assert Table.from_plain(Table().to_plain()) == Table()
