"""The link's channel: certificates, options, and what gRPC's failures mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pleat.errors import UseError
from pleat.exchange import address as addresses
from pleat.exchange import limits

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


def credentials(address: str, ca: Path | None, insecure: bool) -> grpc.ChannelCredentials | None:
    """What to check the server's certificate against; None for plaintext. Raises UseError, naming the option."""
    if ca is None:
        addresses.check_plaintext(address, insecure, "give the server's certificate with --ca FILE")
        return None
    try:
        roots = ca.read_bytes()
    except OSError as error:
        raise UseError(f"--ca {ca}: cannot be read: {error.strerror}") from None
    if b"-----BEGIN CERTIFICATE-----" not in roots:
        raise UseError(f"--ca {ca}: holds no certificate; a PEM file is expected")
    return grpc.ssl_channel_credentials(root_certificates=roots)


def why(error: grpc.aio.AioRpcError, address: str) -> str:
    """A failure in words a person can act on."""
    details = error.details() or ""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"{address} answers, but not as a pleat server of protocol {limits.PROTOCOL}; check port and versions"
    if "ssl" in details.lower() or "certificate" in details.lower():
        return f"no TLS with {address}: {_last(details)}; check --ca, and that the server was given --cert and --key"
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"cannot reach {address}: {_last(details)}; is the server running there?"
    return f"the stream broke: {error.code().name.lower()}: {_last(details)}"


def _last(details: str) -> str:
    """The end of gRPC's chain of causes, which is the cause."""
    return limits.words(details.rsplit("last error: ", 1)[-1].rsplit("UNKNOWN: ", 1)[-1], 200) or "no reason given"
