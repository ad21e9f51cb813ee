"""What gRPC's failures mean, in words a person can act on: it tells them in the words of its libraries."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio

from pleat.exchange import limits

_STRANGER = (
    "the certificate of {address} is not signed by the authority in --ca; copy the server's: scp SERVER:ca.pem {ca}"
)
_NO_TLS = "no TLS with {address}: {cause}; check --ca, and that the server was given --cert and --key"
_NO_NAME = "the name in {address} is not known here; find its number on the server with: hostname -I"
UNCONNECTED = "failed to connect"  # in details, where the handshake did not come to its end
# What gRPC's details hold -> what it means and what to type next; the first that fits.
_CAUSES = (
    (
        "certificate has expired",
        "a certificate of {address} has run out; see its dates with: {show} -noout -dates; then make a new one there",
    ),
    (
        "certificate is not yet valid",
        "the certificate of {address} is not valid yet, so one of the clocks is wrong; set this one with: "
        "sudo timedatectl set-ntp true",
    ),
    (
        "hostname verification",
        "{address} shows the certificate of another host; see for whom it was made with: {show} -noout -ext "
        "subjectAltName; then say that name in --server",
    ),
    (
        "wrong_version_number",
        "{address} speaks plain text; start the server with --cert and --key, or drop --ca and say --insecure here",
    ),
    ("errors resolving", _NO_NAME),
    ("dns resolution failed", _NO_NAME),  # an older gRPC's words
    ("certificate_verify_failed", _STRANGER),
    ("certificate signature failure", _STRANGER),
    ("ssl_error", _NO_TLS),
    ("tls handshake failed", _NO_TLS),
    ("ssl handshake failed", _NO_TLS),
)


def why(
    error: grpc.aio.AioRpcError, address: str, ca: Path | None = None, then: str = "", cert: Path | None = None
) -> str:
    """A failure in words a person can act on. `ca`: the file that the server was checked against; `then`: what to type
    where nobody answers; `cert`: the certificate that this device showed."""
    details = error.details() or ""
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return f"{address} answers, but not as a pleat server of protocol {limits.PROTOCOL}; check port and versions"
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"{address} does not answer in time; is the server running there, and nothing between that drops packets?"
        )
    show = f"openssl s_client -connect {address} </dev/null | openssl x509"
    cause = _last(details)
    for words, means in _CAUSES:
        if words in details.lower():
            return means.format(address=address, ca=ca or "ca.pem", cause=cause, show=show)
    if "socket closed" in details.lower() and (ca is None or UNCONNECTED in details.lower()):
        return f"{address} closes the connection at once; {_unwelcome(ca, cert)}"
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"cannot reach {address}: {cause}; is the server running there?{then and f' {then}'}"
    return f"the stream broke: {error.code().name.lower()}: {cause}"


def _unwelcome(ca: Path | None, cert: Path | None) -> str:
    """What a server that ends the handshake without a word may have missed."""
    if ca is None:
        return "if it was started with --cert, say --ca FILE here"
    if cert is None:
        return "if it was started with --ca, it asks for this device's certificate: say --cert FILE and --key FILE here"
    see = f"openssl x509 -noout -issuer -in {cert}"
    return f"if it was started with --ca, have that authority sign {cert}; see who did with: {see}"


def _last(details: str) -> str:
    """The end of gRPC's chain of causes, which is the cause."""
    return limits.words(details.rsplit("last error: ", 1)[-1].rsplit("UNKNOWN: ", 1)[-1], 200) or "no reason given"
