"""The access file: TOML, read whole or refused whole. See ACCESS.md for what it says."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from orchestrator.access.jwts import JwtIssuer, keys_of
from orchestrator.access.node_secret import NodeSecret
from orchestrator.access.patterns import Patterns
from orchestrator.access.policy import CertificateName, Grant, Policy, StaticToken
from orchestrator.access.principals import ANONYMOUS_NAME, GROUP_PREFIX, Identity, Known, Principal
from orchestrator.access.roles import LIMITED_BY, Role
from orchestrator.access.tokens import parse_hash

FILE_BYTES_MAX = 4 << 20
ENTRIES_MAX = 10_000
LEEWAY_SECONDS_MAX = 300

T = TypeVar("T")
R = TypeVar("R")
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f:*]+$")]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000, pattern=r"^[^\x00-\x1f]+$")]
_Names = Annotated[list[_Name], msgspec.Meta(max_length=1_000)]
_Texts = Annotated[list[_Text], msgspec.Meta(min_length=1, max_length=1_000)]

# `node:` and `group:` begin names that mean something else.
_RESERVED = {ANONYMOUS_NAME, "node", "group"}

ReadFile = Callable[[Path], bytes]
"""Raises OSError."""


class RulesInvalid(Exception):
    """The message says where and what."""


class _Entry(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class _Token(_Entry):
    name: _Name
    hash: _Text
    groups: _Names = []
    expires: datetime | None = None


class _Certificate(_Entry):
    common_name: _Text = ""
    dns: _Text = ""
    uri: _Text = ""
    principal: _Name | None = None
    groups: _Names = []


class _Jwt(_Entry):
    name: _Name
    issuer: _Text
    audience: _Text
    jwks_file: _Text
    principal_claim: _Text = "sub"
    groups_claim: _Text = "groups"
    groups: dict[_Text, _Name] = {}
    leeway_seconds: Annotated[int, msgspec.Meta(ge=0, le=LEEWAY_SECONDS_MAX)] = 30


class _Grant(_Entry):
    to: _Texts
    role: Role
    namespaces: _Texts | None = None
    workflows: _Texts | None = None
    events: _Texts | None = None
    tasks: _Texts | None = None


class _File(_Entry):
    token: Annotated[list[_Token], msgspec.Meta(max_length=ENTRIES_MAX)] = []
    certificate: Annotated[list[_Certificate], msgspec.Meta(max_length=ENTRIES_MAX)] = []
    jwt: Annotated[list[_Jwt], msgspec.Meta(max_length=100)] = []
    grant: Annotated[list[_Grant], msgspec.Meta(max_length=ENTRIES_MAX)] = []


def sources(path: Path, read: ReadFile) -> dict[Path, bytes]:
    """The file, and those that it names. Raises RulesInvalid."""
    found = {path: _content(path, read)}
    for entry in _parsed(path, found[path]).jwt:
        keys = path.parent / entry.jwks_file
        found[keys] = _content(keys, read)
    return found


def policy_of(path: Path, found: dict[Path, bytes], node_secret: NodeSecret | None = None) -> Policy:
    """What the sources say. Raises RulesInvalid."""
    file = _parsed(path, found[path])
    try:
        tokens = _each("token", file.token, _token)
        certificates = _each("certificate", file.certificate, _certificate)
        issuers = _each("jwt", file.jwt, lambda entry, _: _issuer(entry, found[path.parent / entry.jwks_file]))
        grants = _each("grant", file.grant, _grant)
        _check_once("token", "hash", [token.hash.id for token in tokens])
        _check_once("jwt", "issuer", [entry.issuer for entry in file.jwt])
        _check_once("jwt", "name", [entry.name for entry in file.jwt])
        _check_known(file)
    except ValueError as error:
        raise RulesInvalid(f"{path}: {error}") from None
    return Policy(tokens=tokens, certificates=certificates, issuers=issuers, grants=grants, node_secret=node_secret)


def read_rules(path: Path, node_secret: NodeSecret | None = None) -> Policy:
    """Raises RulesInvalid."""
    return policy_of(path, sources(path, Path.read_bytes), node_secret)


def _content(path: Path, read: ReadFile) -> bytes:
    try:
        content = read(path)
    except OSError as error:
        raise RulesInvalid(f"{path} can't be read: {error.strerror}") from None
    if len(content) > FILE_BYTES_MAX:
        raise RulesInvalid(f"{path} has over {FILE_BYTES_MAX} bytes")
    return content


def _parsed(path: Path, content: bytes) -> _File:
    try:
        return msgspec.convert(tomllib.loads(content.decode()), _File)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesInvalid(f"{path} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise RulesInvalid(f"{path}: {error}") from None


def _each(table: str, entries: Sequence[T], make: Callable[[T, int], R]) -> list[R]:
    made: list[R] = []
    for number, entry in enumerate(entries, 1):
        try:
            made.append(make(entry, number))
        except ValueError as error:
            raise ValueError(f"{table} {number}: {error}") from None
    return made


def _principal_name(name: str) -> str:
    if name in _RESERVED:
        raise ValueError(f"nobody can be called {name!r}")
    return name


def _token(entry: _Token, number: int) -> StaticToken:
    expires_ms = None
    if entry.expires is not None:
        if entry.expires.tzinfo is None:
            raise ValueError("expires needs a time zone, as in 2027-01-31T12:00:00Z")
        expires_ms = int(entry.expires.astimezone(UTC).timestamp() * 1000)
    principal = Principal(_principal_name(entry.name), Known.TOKEN, frozenset(entry.groups))
    try:
        return StaticToken(parse_hash(entry.hash), Identity(principal, expires_ms))
    except ValueError as error:
        raise ValueError(f"hash {error}") from None


def _certificate(entry: _Certificate, number: int) -> CertificateName:
    given = [name for name in (entry.common_name, entry.dns, entry.uri) if name]
    if len(given) != 1:
        raise ValueError("one of common_name, dns and uri is needed")
    if entry.principal is None and ("*" in given[0] or ":" in given[0]):
        raise ValueError(f"principal is needed, as {given[0]!r} is no name")
    principal = _principal_name(entry.principal or given[0])
    kind = "common_name" if entry.common_name else "alternative_name"
    return CertificateName(kind, Patterns(given), principal, frozenset(entry.groups))


def _issuer(entry: _Jwt, keys: bytes) -> JwtIssuer:
    if entry.name in _RESERVED:
        raise ValueError(f"name can't be {entry.name!r}")
    try:
        found = keys_of(keys)
    except ValueError as error:
        raise ValueError(f"{entry.jwks_file} {error}") from None
    return JwtIssuer(
        name=entry.name,
        issuer=entry.issuer,
        audience=entry.audience,
        keys=found,
        principal_claim=entry.principal_claim,
        groups_claim=entry.groups_claim,
        groups=entry.groups,
        leeway_ms=entry.leeway_seconds * 1000,
    )


def _grant(entry: _Grant, number: int) -> Grant:
    if entry.role is Role.NODE:
        wanted: set[str] = set()
        wrong = {"namespaces"}
    else:
        wanted, wrong = {"namespaces"}, set()
    limited = {attribute for (role, _), attribute in LIMITED_BY.items() if role is entry.role}
    wrong |= {"workflows", "events", "tasks"} - limited
    # A starter may be one of workflows, of events or of both.
    wanted |= limited if len(limited) == 1 else set()
    for name in sorted(wanted):
        if getattr(entry, name) is None:
            raise ValueError(f'{name} is needed for the role {entry.role}; ["*"] is all of them')
    if len(limited) > 1 and all(getattr(entry, name) is None for name in limited):
        raise ValueError(f'{" or ".join(sorted(limited, reverse=True))} are needed for the role {entry.role}; '
                         '["*"] is all of them')
    for name in sorted(wrong):
        if getattr(entry, name) is not None:
            raise ValueError(f"{name} have no meaning for the role {entry.role}")
    return Grant(
        number,
        tuple(entry.to),
        entry.role,
        Patterns(entry.namespaces or ()),
        Patterns(entry.workflows or ()),
        Patterns(entry.tasks or ()),
        Patterns(entry.events or ()),
    )


def _check_once(table: str, name: str, values: Iterable[str]) -> None:
    seen: set[str] = set()
    for number, value in enumerate(values, 1):
        if value in seen:
            raise ValueError(f"{table} {number}: {name} is that of another one, too")
        seen.add(value)


def _check_known(file: _File) -> None:
    """Who is granted something is somebody: a misspelt name would be granted it in silence, or later to another."""
    names = {ANONYMOUS_NAME, *(entry.name for entry in file.token)}
    names |= {entry.principal or entry.common_name or entry.dns or entry.uri for entry in file.certificate}
    groups = {group for token in file.token for group in token.groups}
    groups |= {group for certificate in file.certificate for group in certificate.groups}
    groups |= {group for entry in file.jwt for group in entry.groups.values()}
    issuers = tuple(f"{entry.name}:" for entry in file.jwt)
    known = names | {GROUP_PREFIX + group for group in groups}
    for number, grant in enumerate(file.grant, 1):
        for name in grant.to:
            if name in known or (issuers and name.startswith(issuers) and not name.endswith(":")):
                continue
            near = difflib.get_close_matches(name, sorted(known), n=1)
            hint = f"; the nearest is {near[0]!r}" if near else ""
            raise ValueError(f"grant {number}: to names {name!r}, which no token, certificate, issuer or group of this "
                             f"file is called{hint}")
