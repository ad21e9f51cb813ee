"""Certificates of the server: read, checked against each other, handed to gRPC."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from pleat.errors import UseError


def server_tls(cert: Path | None, key: Path | None, ca: Path | None = None) -> grpc.ServerCredentials | None:
    """Credentials from PEM files, None if no file is given. With `ca`, devices must show a certificate it signed.

    Raises UseError, naming the option, for a file that is missing, unreadable, no PEM, or a key of another certificate.
    """
    if cert is None and key is None:
        if ca is not None:
            raise UseError("--ca asks devices for certificates, which needs TLS; give --cert and --key too")
        return None
    if cert is None or key is None:
        raise UseError(f"TLS needs both --cert and --key; {'--key' if key is None else '--cert'} is missing")
    chain, secret = _read(cert, "--cert"), _read(key, "--key")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        raise UseError(
            f"--cert {cert} and --key {key} do not make a pair: {reason}; both must be PEM, the key without passphrase"
        ) from None
    roots = _read(ca, "--ca") if ca is not None else None
    return grpc.ssl_server_credentials([(secret, chain)], roots, require_client_auth=roots is not None)


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UseError(f"{option} {path}: cannot be read: {error.strerror}") from None
