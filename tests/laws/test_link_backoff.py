"""Back-off: waits grow with the square of the failures, never beyond the cap, and never all alike."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from pleat_client.backoff import CAP_S, UNIT_S, delay_s


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_a_wait_is_within_half_of_its_square_and_of_the_cap(failures: int, seed: int) -> None:
    middle = min(CAP_S, UNIT_S * failures**2)
    assert 0.5 * middle <= delay_s(failures, random.Random(seed)) <= 1.5 * middle


def test_a_fleet_that_lost_its_server_together_does_not_come_back_together() -> None:
    waits = {round(delay_s(20, random.Random(device)), 2) for device in range(200)}
    assert len(waits) > 190
    assert max(waits) - min(waits) > 0.8 * CAP_S
