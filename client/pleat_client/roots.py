"""Certificate files of a device: what the server's is checked against, and its own for a server that asks for one.

Read, and told from what people mistake for them.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from pleat.errors import UseError

_BEGIN = "-----BEGIN "


def read(ca: Path, now: float | None = None) -> bytes:
    """The PEM file's bytes. Raises UseError, with the command to type next, for a file that is missing or unreadable,
    a key, no PEM, no certificate, or a certificate that has run out. `now`: seconds since 1970, this machine's if None.
    """
    try:
        data = ca.read_bytes()
    except OSError as error:
        raise UseError(f"ca {ca}: cannot be read: {error.strerror}; look at it with: ls -l {ca}") from None
    text = data.decode("ascii", "replace")
    if f"{_BEGIN}CERTIFICATE-----" not in text:
        raise UseError(f"ca {ca}: {_what(text)}; {_fetch(ca)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text)
    except (ssl.SSLError, ValueError):
        raise UseError(f"ca {ca}: its certificate is damaged; {_fetch(ca)}") from None
    ends = [str(one["notAfter"]) for one in context.get_ca_certs() if "notAfter" in one]
    if ends and all(ssl.cert_time_to_seconds(end) < (time.time() if now is None else now) for end in ends):
        raise UseError(
            f"ca {ca}: the certificate ran out on {ends[-1]}; make a new one on the server, and {_fetch(ca)}"
        )
    return data


def pair(cert: Path | None, key: Path | None) -> tuple[bytes, bytes] | None:
    """(key, certificate) of this device, PEM; None where neither is given. Raises UseError where one is missing,
    unreadable, or not the other's."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UseError(
            f"a device's own certificate needs both --cert and --key; {'--key' if cert else '--cert'} is missing"
        )
    try:
        found = key.read_bytes(), cert.read_bytes()
    except OSError as error:
        raise UseError(
            f"{error.filename}: cannot be read: {error.strerror}; look at it with: ls -l {error.filename}"
        ) from None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, key, password=lambda: b"")
    except (ssl.SSLError, OSError):
        raise UseError(
            f"cert {cert} and key {key} do not make a pair; both must be PEM, the key without passphrase. Compare: "
            f"openssl x509 -in {cert} -noout -pubkey; openssl pkey -in {key} -pubout"
        ) from None
    return found


def _what(text: str) -> str:
    """What a file without a certificate is, as far as can be told."""
    if "PRIVATE KEY-----" in text:
        return "holds a private key and no certificate; keys stay on the server"
    if _BEGIN in text:
        return f"holds no certificate but a {text.split(_BEGIN, 1)[1].split('-----')[0].lower()}"
    return "holds no certificate; a PEM file is expected, which begins with -----BEGIN CERTIFICATE-----"


def _fetch(ca: Path) -> str:
    return f"copy the certificate of the server's authority here: scp SERVER:ca.pem {ca}"
