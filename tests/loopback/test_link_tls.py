"""TLS with certificates made here, and files that do not serve as such."""

from __future__ import annotations

from pathlib import Path

import pytest

from pleat.errors import UseError
from pleat.exchange.report import Profile
from pleat_client.link import Link
from pleat_server.link.tls import server_tls
from support.certificates import papers
from support.fleet import Fleet, Heard, in_time, order, report


@in_time
async def test_a_round_trip_over_tls(tmp_path: Path) -> None:
    own = papers(tmp_path / "own")
    async with Fleet(tmp_path, tls=server_tls(own.cert, own.key)) as fleet:
        fleet.desk.open[order().id] = "a"
        heard = Heard(lambda data: ("run-1/1/0", report()))
        fleet.device("a", heard, ca=own.ca)
        await heard.until("joined")
        fleet.carrier.send(order())
        await heard.until("ack")


@in_time
async def test_a_server_that_asks_for_certificates_lets_in_those_its_authority_signed(tmp_path: Path) -> None:
    own, other = papers(tmp_path / "own"), papers(tmp_path / "other")
    async with Fleet(tmp_path, tls=server_tls(own.cert, own.key, own.ca)) as fleet:
        known, stranger, nobody = Heard(), Heard(), Heard()
        fleet.device("a", known, ca=own.ca, cert=own.cert, key=own.key)
        await known.until("joined")
        fleet.device("b", stranger, ca=own.ca, cert=other.cert, key=other.key)
        fleet.device("c", nobody, ca=own.ca)
        assert f"have that authority sign {other.cert}" in (await stranger.until("lost"))[1]
        assert "say --cert FILE and --key FILE here" in (await nobody.until("lost"))[1]
        assert list(fleet.carrier.devices()) == ["a"]


@in_time
async def test_where_nobody_listens_no_certificate_is_asked_for(tmp_path: Path) -> None:
    own = papers(tmp_path / "own")
    async with Fleet(tmp_path, tls=server_tls(own.cert, own.key)) as fleet:
        fleet.carrier.close()
        heard = Heard()
        fleet.device("a", heard, ca=own.ca)
        lost = (await heard.until("lost"))[1]
        assert "is the server running there?" in lost
        assert "--cert" not in lost


def test_a_devices_own_papers_that_do_not_serve_are_named(tmp_path: Path) -> None:
    own, other = papers(tmp_path / "own"), papers(tmp_path / "other")
    for ca, cert, key, reason in (
        (own.ca, own.cert, None, "needs both --cert and --key; --key is missing"),
        (own.ca, None, own.key, "needs both --cert and --key; --cert is missing"),
        (own.ca, own.cert, other.key, "do not make a pair"),
        (own.ca, tmp_path / "nothing.pem", own.key, "nothing.pem: cannot be read"),
        (None, own.cert, own.key, "say --ca too"),
    ):
        with pytest.raises(UseError, match=reason):
            Link("127.0.0.1:1", Heard(), name="a", secret=bytes(32), profile=Profile, ca=ca, cert=cert, key=key)


@in_time
async def test_a_device_that_trusts_another_authority_or_none_is_told_so(tmp_path: Path) -> None:
    own, other = papers(tmp_path / "own"), papers(tmp_path / "other")
    async with Fleet(tmp_path, tls=server_tls(own.cert, own.key)) as fleet:
        stranger, plain = Heard(), Heard()
        fleet.device("a", stranger, ca=other.ca)
        lost = (await stranger.until("lost"))[1]
        assert f"is not signed by the authority in --ca; copy the server's: scp SERVER:ca.pem {other.ca}" in lost
        fleet.device("b", plain)
        await plain.until("lost")
        assert fleet.carrier.devices() == {}


def test_certificate_files_that_do_not_serve_are_named(tmp_path: Path) -> None:
    own, other = papers(tmp_path / "own"), papers(tmp_path / "other")
    nothing, text = tmp_path / "nothing.pem", tmp_path / "text.pem"
    text.write_text("hello")
    assert server_tls(None, None) is None
    for cert, key, ca, reason in (
        (own.cert, None, None, "--key is missing"),
        (None, own.key, None, "--cert is missing"),
        (None, None, own.ca, "give --cert and --key too"),
        (nothing, own.key, None, f"--cert {nothing}: cannot be read"),
        (own.cert, other.key, None, "do not make a pair"),
        (text, own.key, None, "do not make a pair"),
    ):
        with pytest.raises(UseError, match=reason):
            server_tls(cert, key, ca)
    for ca, reason in ((nothing, "cannot be read"), (text, "holds no certificate")):
        with pytest.raises(UseError, match=reason):
            Link("127.0.0.1:1", Heard(), name="a", secret=bytes(32), profile=Profile, ca=ca)
