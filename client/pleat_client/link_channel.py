"""The link's channel: certificates and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pleat.errors import UseError
from pleat.exchange import address as addresses
from pleat.exchange import limits
from pleat_client import roots

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", limits.MESSAGE),
    ("grpc.max_send_message_length", limits.MESSAGE),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 20_000),  # notices a server that vanished without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]


def channel(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    """A fresh channel; without credentials it speaks plaintext."""
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=_OPTIONS)


def credentials(
    address: str, ca: Path | None, insecure: bool, cert: Path | None = None, key: Path | None = None
) -> grpc.ChannelCredentials | None:
    """What to check the server's certificate against, and what to show it; None for plaintext. Raises UseError, naming
    the option."""
    own = roots.pair(cert, key)
    if ca is None:
        if own is not None:
            raise UseError("--cert and --key are shown to a server over TLS; say --ca too, which it is checked against")
        addresses.check_plaintext(address, insecure, "give the server's certificate with --ca FILE")
        return None
    return grpc.ssl_channel_credentials(roots.read(ca), *(own or (None, None)))
