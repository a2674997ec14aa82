"""What an authority makes: for whom, for what, in which files, and that OpenSSL believes it."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest

from orchestrator.tls.authority import Authority, AuthorityError
from orchestrator.tls.certificate import Certificate
from orchestrator.tls.files import read
from tests.tls import making


def test_a_nodes_certificate_is_for_both_ends_and_for_its_name_and_hosts(tmp_path: Path) -> None:
    authority = making.authority(tmp_path)
    made = making.node(authority, "a", "a.example", "10.0.0.1", "fd00::1").certificate
    assert made.common_name == "a" and made.names == ("a", "a.example", "10.0.0.1", "fd00::1")
    assert made.for_servers and made.for_clients and not made.is_authority
    assert made.issuer == "authority"
    [own] = Certificate.all_of(authority.file.read_bytes())
    assert own.is_authority


def test_a_clients_certificate_serves_nobody(tmp_path: Path) -> None:
    made = making.client(making.authority(tmp_path), "ops").certificate
    assert made.for_clients and not made.for_servers and made.names == ("ops",)


def test_what_it_makes_can_be_used_at_once(tmp_path: Path) -> None:
    authority = making.authority(tmp_path)
    assert read(making.files(authority, making.node(authority, "a"), host=making.HOST))


def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    authority = making.authority(tmp_path)
    making.node(authority, "a")
    authority.renew("a", making.now(), 30)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in authority.directory.iterdir()}
    assert modes == dict.fromkeys(("a.pem", "a.key", "authority.pem", "authority.key"), 0o600)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    authority = making.authority(tmp_path)
    making.node(authority, "a")
    before = {file: file.read_bytes() for file in authority.directory.iterdir()}
    with pytest.raises(AuthorityError, match=r"authority\.pem exists"):
        making.authority(tmp_path)
    with pytest.raises(AuthorityError, match=r"a\.pem exists"):
        making.client(authority, "a")
    (authority.directory / "b.key").write_text("mine")
    with pytest.raises(AuthorityError, match=r"b\.key exists"):
        making.node(authority, "b")
    assert (authority.directory / "b.key").read_text() == "mine"
    assert {file: file.read_bytes() for file in before} == before


def test_what_is_renewed_is_for_the_same_with_another_key(tmp_path: Path) -> None:
    authority = Authority.load(making.authority(tmp_path).directory)
    old = making.node(authority, "a", "a.example")
    key = old.key_file.read_bytes()
    new = authority.renew("a", making.now(), 60)
    assert (new.certificate.names, new.certificate.for_servers) == (old.certificate.names, True)
    assert new.certificate.serial_number != old.certificate.serial_number and new.key_file.read_bytes() != key
    assert new.certificate.ends > old.certificate.ends
    assert sorted(file.name for file in authority.directory.iterdir()) == [
        "a.key", "a.pem", "authority.key", "authority.pem"]
    assert read(making.files(authority, new, host="a.example"))


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, "short", making.now(), days=2)
    assert making.node(authority, "a", days=30).certificate.ends <= making.now() + datetime.timedelta(days=2)
    over = making.now() + datetime.timedelta(days=3)
    with pytest.raises(AuthorityError, match="has ended"):
        authority.sign_node("b", ["b"], over, 1)


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".a", "a b", "authority", "a" * 64])
def test_names_that_are_none_are_refused(tmp_path: Path, name: str) -> None:
    authority = making.authority(tmp_path)
    with pytest.raises(AuthorityError, match="no name for a certificate"):
        making.client(authority, name)
    assert {file.name for file in authority.directory.iterdir()} == {"authority.pem", "authority.key"}


@pytest.mark.parametrize("host", ["a.example:7500", "a b", "http://a", "*", "-a", "a..\n"])
def test_hosts_that_are_none_are_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(AuthorityError, match="neither a host name nor an IP address"):
        making.node(making.authority(tmp_path), "a", host)


def test_a_directory_without_its_authority_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match=r"authority\.pem can't be read"):
        Authority.load(tmp_path)
    one, other = making.authority(tmp_path, "one"), making.authority(tmp_path, "other")
    (one.directory / "authority.key").write_bytes((other.directory / "authority.key").read_bytes())
    with pytest.raises(AuthorityError, match="not the key"):
        Authority.load(one.directory)


@pytest.mark.parametrize(("name", "host", "fits"), [
    ("a.example", "a.example", True),
    ("a.example", "A.EXAMPLE.", True),
    ("a.example", "b.example", False),
    ("*.nodes.svc", "a.nodes.svc", True),
    ("*.nodes.svc", "a.b.nodes.svc", False),
    ("*.nodes.svc", "nodes.svc", False),
    ("*.example", "a.example", False),
    ("10.0.0.1", "10.0.0.1", True),
    ("10.0.0.1", "10.0.0.2", False),
    ("fd00::1", "fd00:0:0::1", True),
])
def test_whom_a_certificate_is_for(tmp_path: Path, name: str, host: str, fits: bool) -> None:
    made = making.node(making.authority(tmp_path), "node", name).certificate
    assert made.valid_for(host) is fits
