"""HOST:PORT, and the one rule about plaintext: only on this machine, unless its owner insists."""

from __future__ import annotations

import ipaddress

from pleat.errors import UseError


def parse(text: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "[IPV6]:PORT". Raises UseError."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise UseError(f"address {text!r}: an IPv6 address needs brackets, such as [::1]:7878")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise UseError(f"address {text!r} is not HOST:PORT, such as 127.0.0.1:7878 or server.local:7878")
    return host, int(port)


def join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_plaintext(text: str, insecure: bool, instead: str) -> None:
    """Raises UseError if speaking plaintext at `text` is neither local nor asked for; `instead`: what to type."""
    host, _ = parse(text)
    if not insecure and not is_loopback(host):
        raise UseError(
            f"{text} is not this machine, and without TLS everything would travel in plain text; {instead}, "
            "or say --insecure if the network is trusted"
        )
