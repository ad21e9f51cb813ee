"""Reopening: the orders of an interrupted round are open, and the done ones known, before any device can connect."""

from __future__ import annotations

import msgspec

from pleat_server import round as rounds
from pleat_server.desk import OrderBook
from pleat_server.election import pending
from pleat_server.keep.run import Keep
from pleat_server.round import Decisions, Setup
from pleat_server.state import State


def reopen(setup: Setup, state: State, keep: Keep, book: OrderBook) -> None:
    """Before any device can connect: open an interrupted round's orders, and know what closed rounds contain."""
    book.serve(setup.model, state.done)
    kept = keep.spool.read_plan(state.run, state.round + 1)
    if kept is not None and not pending(setup, state):  # whose orders follow from what devices answer first
        decisions = Decisions.from_plain(msgspec.json.decode(kept))
        book.open(rounds.orders(setup, rounds.publication(setup, state), decisions))
