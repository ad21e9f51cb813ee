"""Asking a server without joining its run: is it there, which version is it, how fast is the way to it?"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from pleat.errors import RemoteError, Retry
from pleat.exchange import limits, question
from pleat.exchange.question import Answer
from pleat_client import link_channel
from pleat_client.link_trust import why

PATIENCE_S = 10.0  # for one question; a padded one on a slow link gets longer
LONG_S = 60.0
FIRST, MOST = 64 << 10, limits.CHUNK - (64 << 10)  # bytes of padding: a first guess, then enough to be measured
SHORT_S = 0.5  # a transfer that took less is tried again with more


@dataclass(frozen=True)
class Reached:
    """`rtt_s`: seconds from a short question to its answer; `up`, `down`: bytes a second, None = not measured."""

    answer: Answer
    rtt_s: float
    up: float | None = None
    down: float | None = None


def ask(address: str, ca: Path | None, insecure: bool, cert: Path | None = None, key: Path | None = None) -> Reached:
    """Connect, ask, and measure. Raises UseError for a bad address or certificate file, Retry where nobody answers,
    RemoteError for an answer that is none; each in words a person can act on."""
    credentials = link_channel.credentials(address, ca, insecure, cert, key)
    return asyncio.run(_asked(address, ca, cert, credentials))


async def _asked(
    address: str, ca: Path | None, cert: Path | None, credentials: grpc.ChannelCredentials | None
) -> Reached:
    channel = link_channel.channel(address, credentials)
    try:
        call: Any = channel.unary_unary(question.METHOD)

        async def timed(up: int = 0, down: int = 0, patience_s: float = PATIENCE_S) -> tuple[Answer, float]:
            began = time.perf_counter()
            answer = question.answer(await call(question.question(up, down), timeout=patience_s))
            return answer, time.perf_counter() - began

        async def rate(up: int, down: int, rtt_s: float) -> float | None:
            for size in (FIRST, MOST):
                _, seconds = await timed(size * up, size * down, LONG_S)
                if seconds > SHORT_S:
                    break
            return size / (seconds - rtt_s) if seconds > rtt_s else None

        answer, _ = await timed()  # its time holds the connecting, too
        rtt_s = min([(await timed())[1] for _ in range(3)])
        if answer.protocol != limits.PROTOCOL:
            return Reached(answer, rtt_s)
        return Reached(answer, rtt_s, await rate(1, 0, rtt_s), await rate(0, 1, rtt_s))
    except grpc.aio.AioRpcError as error:
        then = f"Look there with: ss -ltn | grep {address.rpartition(':')[2]}"
        raise Retry(why(error, address, ca, then, cert)) from None
    except RemoteError as error:
        raise RemoteError(f"{address} answers, but not as a pleat server: {error}") from None
    finally:
        await channel.close()
