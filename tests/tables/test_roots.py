"""What people give as --ca by mistake: each is one line that says what the file is, and what to type."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pleat.errors import UseError
from pleat_client import config, roots
from support.certificates import papers

DAY = 86400.0


def test_an_authoritys_certificate_is_read_as_it_is(tmp_path: Path) -> None:
    ca = papers(tmp_path).ca
    assert roots.read(ca) == ca.read_bytes()


def test_a_servers_own_certificate_may_be_trusted_too(tmp_path: Path) -> None:
    cert = papers(tmp_path).cert
    assert roots.read(cert) == cert.read_bytes()


def test_a_key_is_told_from_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(UseError, match=r"holds a private key and no certificate; keys stay on the server; .*scp"):
        roots.read(papers(tmp_path).key)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds no certificate; a PEM file is expected"),
        (b"\x30\x82\x01\x0a\x02\x82", "holds no certificate; a PEM file is expected"),  # DER
        (b"-----BEGIN CERTIFICATE REQUEST-----\n", "no certificate but a certificate request"),
        (b"-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n", "its certificate is damaged"),
        (b"-----BEGIN CERTIFICATE-----\n", "its certificate is damaged"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "ca.pem").write_bytes(data)
    with pytest.raises(UseError, match=says) as caught:
        roots.read(tmp_path / "ca.pem")
    assert "scp SERVER:ca.pem" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_authority_that_has_run_out_is_refused_and_one_that_has_not_is_not(tmp_path: Path) -> None:
    ca = papers(tmp_path).ca
    with pytest.raises(UseError, match=r"the certificate ran out on .* make a new one on the server"):
        roots.read(ca, time.time() + 2 * DAY)
    assert roots.read(ca, time.time() - 30 * DAY), "a Pi wakes up in the past: that is no fault of the file"


def test_of_several_authorities_one_that_is_good_is_enough(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(papers(tmp_path / "old", ca_days=-1).ca.read_bytes() + papers(tmp_path / "new").ca.read_bytes())
    assert roots.read(both)


def test_a_wrong_file_ends_the_start_before_anything_is_begun(tmp_path: Path) -> None:
    shard = tmp_path / "shard.npz"
    shard.write_bytes(b"x")
    given = {"server": "s:1", "data": shard, "name": "a", "state": tmp_path / "state", "ca": papers(tmp_path / "p").key}
    with pytest.raises(UseError, match="holds a private key"):
        config.load(given, system=tmp_path / "none")
    assert not (tmp_path / "state").exists()
