"""Certificates for tests: an authority, and what it signed for 127.0.0.1; by `cryptography`, else by openssl."""

from __future__ import annotations

import datetime
import importlib.util
import ipaddress
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

AUTHORITY, SERVER = "pleat test authority", "pleat test server"


@dataclass(frozen=True)
class Papers:
    """PEM files: an authority's certificate, and a server's with its key."""

    ca: Path
    cert: Path
    key: Path


def papers(
    folder: Path, host: str = "127.0.0.1", days: float = 1.0, ca_days: float = 1.0, by: str = AUTHORITY
) -> Papers:
    """A fresh authority, and a certificate for the address `host` signed by it, good for `days` (below 0: run out);
    `by`: the authority's name.
    Skips the test where nothing can make them; what is not usual needs `cryptography`."""
    folder.mkdir(parents=True, exist_ok=True)
    out = Papers(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    if importlib.util.find_spec("cryptography") is not None:
        _by_cryptography(out, host, days, ca_days, by)
    elif (host, days, ca_days, by) == ("127.0.0.1", 1.0, 1.0, AUTHORITY) and shutil.which("openssl") is not None:
        _by_openssl(folder)
    else:
        pytest.skip("neither cryptography nor openssl is installed")
    return out


def _by_openssl(folder: Path) -> None:
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
    for words in (
        ["req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", f"/CN={AUTHORITY}", "-days", "1"],
        ["req", *curve, "-keyout", "key.pem", "-out", "ask.pem", "-subj", f"/CN={SERVER}"],
        ["x509", "-req", "-in", "ask.pem", *signed, "-days", "1", "-out", "cert.pem"],
    ):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def _by_cryptography(out: Papers, host: str, days: float, ca_days: float, by: str) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    authority, owner = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    out.ca.write_bytes(_certificate(by, by, authority, authority, host, ca_days).public_bytes(s.Encoding.PEM))
    out.cert.write_bytes(_certificate(SERVER, by, owner, authority, host, days).public_bytes(s.Encoding.PEM))
    out.key.write_bytes(owner.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))


def _certificate(subject: str, by: str, own: Any, signer: Any, host: str, days: float) -> Any:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.timezone.utc)
    local = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    return (
        x509.CertificateBuilder(name(by), name(subject), own.public_key(), x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=min(0.0, days - 1.0), hours=-1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=own is signer, path_length=None), critical=True)
        .add_extension(local, critical=False)
        .sign(signer, hashes.SHA256())
    )
