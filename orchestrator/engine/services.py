"""Records of the service registry: what a task that names a service need not know of it.

A record is a JSON document like a definition, read by the same rules: what it does not say has a default, an unknown
field is an error, and what is wrong is told by its path.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

import msgspec

from orchestrator.engine import limits
from orchestrator.engine.definitions.errors import DefinitionInvalid, quoted
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.expressions import JsonInvalid, check_json, compact, text_of

ENDPOINTS_MAX = 64
HEADERS_MAX = 64
ATTEMPTS_MAX = 100
TIMEOUT_MS_MAX = 3_600_000
FAILURES_MAX = 10_000
CALLS_MAX = 1_000
SECONDS_MAX = 3_600
PATH_CHARACTERS_MAX = 1_000
HEADER_CHARACTERS_MAX = 8_000

_KNOWN = (
    "name protocol endpoints timeouts retry tls headers metadata descriptorSet circuitBreaker"
    # For readers only.
    " description ownerEmail"
).split()
_OF_PROTOCOLS = {"headers": "HTTP", "metadata": "GRPC", "descriptorSet": "GRPC"}

_HOST = r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,252}))"
_PORT = r"(?::[0-9]{1,5})"
HTTP_ENDPOINT = re.compile(rf"https?://{_HOST}{_PORT}?(?:/[!\"$->@-~]*)?")
GRPC_ENDPOINT = re.compile(rf"{_HOST}{_PORT}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}")
_METADATA = re.compile(r"[0-9a-z_.-]{1,200}")
_HEADER_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_METADATA_VALUE = re.compile(r"[ -~]*")
_CONTROL = re.compile(r"[\x00-\x1f]")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")

OURS = frozenset(("idempotency-key", "fencing-token"))
"""Headers, and metadata, that every call has from the orchestrator itself: nobody else's go under these names."""
FRAMING = frozenset("connection content-length expect keep-alive te trailer transfer-encoding upgrade".split())
"""Headers that say how a message is transferred, which is not the caller's to say."""


class Protocol(StrEnum):
    HTTP = "HTTP"
    GRPC = "GRPC"


class Tls(msgspec.Struct, frozen=True):
    """Paths of PEM files on the nodes; "" is none: the machine's own authorities, and no certificate to show."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    server_name: str = ""  # whom the certificate must be for; "": the host of the endpoint


class CircuitBreaker(msgspec.Struct, frozen=True):
    """After so many failures within the window no calls are made for a while; then some are, to see."""

    failures: int
    window_ms: int
    open_ms: int
    half_open_calls: int


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record that keeps the rules, with its defaults filled in."""

    name: str
    protocol: Protocol
    endpoints: tuple[str, ...]  # HTTP: URIs, to which a path is added; GRPC: host:port
    connect_ms: int
    read_ms: int  # HTTP only
    total_ms: int  # 0: the caller's own
    attempts: int  # within one execution of a task, of calls that surely were not executed
    retry_delay_ms: int  # before an endpoint is tried again
    tls: Tls | None
    headers: tuple[tuple[str, str], ...]  # GRPC: metadata
    descriptor_set: str  # a FileDescriptorSet, base64; "": none
    breaker: CircuitBreaker | None
    document: bytes  # without white space, otherwise as it was given


def validate_service(document: bytes) -> ServiceRecord:
    """Raises DefinitionInvalid."""
    fields = Fields(text := _json(document), "", _KNOWN)
    protocol = fields.choice("protocol", Protocol, Protocol.HTTP)
    for key, owner in _OF_PROTOCOLS.items():
        if fields.is_set(key) and owner != protocol:
            raise fields.invalid(key, f"it is for services of protocol {owner}")
    for key in ("description", "ownerEmail"):
        fields.text(key)
    name = fields.name("name")
    if _CONTROL.search(name):
        raise fields.invalid("name", "it has control characters")
    endpoints = _endpoints(fields, protocol)
    connect_ms, read_ms, total_ms = _timeouts(fields, protocol)
    retry = _part(fields, "retry", ("attempts", "delayMs"))
    tls = read_tls(fields, "tls")
    if tls is not None and any(endpoint.startswith("http://") for endpoint in endpoints):
        raise fields.invalid("tls", "it is for endpoints that begin with https://")
    return ServiceRecord(
        name=name,
        protocol=protocol,
        endpoints=endpoints,
        connect_ms=connect_ms,
        read_ms=read_ms,
        total_ms=total_ms,
        attempts=retry.integer("attempts", len(endpoints), least=1, most=ATTEMPTS_MAX),
        retry_delay_ms=retry.integer("delayMs", 100, most=TIMEOUT_MS_MAX),
        tls=tls,
        headers=_pairs(fields, "metadata" if protocol is Protocol.GRPC else "headers", protocol),
        descriptor_set=_descriptor_set(fields),
        breaker=_breaker(fields),
        document=text,
    )


def read_tls(fields: Fields, key: str) -> Tls | None:
    """true, or an object of files and a name; absent and false are none."""
    raw = fields.raw(key)
    if raw in (b"true", b"false"):
        return Tls() if raw == b"true" else None
    if raw is None:
        return None
    files = _part(fields, key, ("ca", "cert", "key", "serverName"))
    for one, other in (("cert", "key"), ("key", "cert")):
        if files.text(one) and not files.text(other):
            raise files.invalid(other, f"{one} and {other} go together")
    for one in ("ca", "cert", "key", "serverName"):
        if len(files.text(one)) > PATH_CHARACTERS_MAX:
            raise files.invalid(one, f"it may have {PATH_CHARACTERS_MAX} characters")
    return Tls(files.text("ca"), files.text("cert"), files.text("key"), files.text("serverName"))


def _json(document: bytes) -> bytes:
    if len(document) > limits.SERVICE_BYTES:
        raise DefinitionInvalid("", f"a record may have {limits.SERVICE_BYTES} bytes")
    try:
        check_json(document)
    except JsonInvalid as error:
        raise DefinitionInvalid("", str(error)) from None
    return compact(document)


def _part(fields: Fields, key: str, known: tuple[str, ...]) -> Fields:
    return Fields(fields.object(key), fields.at(key), known)


def _endpoints(fields: Fields, protocol: Protocol) -> tuple[str, ...]:
    endpoints = fields.texts("endpoints")
    if not 1 <= len(endpoints) <= ENDPOINTS_MAX:
        raise fields.invalid("endpoints", f"there must be 1 to {ENDPOINTS_MAX}")
    form = HTTP_ENDPOINT if protocol is Protocol.HTTP else GRPC_ENDPOINT
    like = "http://host:port/path or https://..." if protocol is Protocol.HTTP else "host:port"
    seen: dict[str, None] = {}
    for position, endpoint in enumerate(endpoints):
        where = f"endpoints[{position}]"
        if not form.fullmatch(endpoint) or not _port_fits(endpoint):
            raise fields.invalid(where, f"{quoted(endpoint)} is not of the form {like}")
        if endpoint in seen:
            raise fields.invalid(where, f"{quoted(endpoint)} is there twice")
        seen[endpoint] = None
    return endpoints


def _port_fits(endpoint: str) -> bool:
    host = endpoint.partition("://")[2].partition("/")[0] if "://" in endpoint else endpoint
    port = host.rpartition("]")[2].rpartition(":")[2] if ":" in host.rpartition("]")[2] else ""
    return not port or 1 <= int(port) <= 65535


def _timeouts(fields: Fields, protocol: Protocol) -> tuple[int, int, int]:
    timeouts = _part(fields, "timeouts", ("connectMs", "readMs", "totalMs"))
    if protocol is Protocol.GRPC and timeouts.has("readMs"):
        raise timeouts.invalid("readMs", "it is for services of protocol HTTP")
    return (
        timeouts.integer("connectMs", 3_000, least=1, most=TIMEOUT_MS_MAX),
        timeouts.integer("readMs", 3_000, least=1, most=TIMEOUT_MS_MAX),
        timeouts.integer("totalMs", 0, most=TIMEOUT_MS_MAX),
    )


def _pairs(fields: Fields, key: str, protocol: Protocol) -> tuple[tuple[str, str], ...]:
    """Texts by name, in the order of the document."""
    given: Mapping[str, bytes] = fields.mapping(key)
    if len(given) > HEADERS_MAX:
        raise fields.invalid(key, f"there may be {HEADERS_MAX}")
    pairs = []
    for name, raw in given.items():
        where = f"{key}.{name}"
        if raw[:1] != b'"':
            raise fields.invalid(where, "it must be a string")
        value = text_of(raw)
        if problem := header_problem(name, value, protocol):
            raise fields.invalid(where, problem)
        pairs.append((name, value))
    return tuple(pairs)


def header_problem(name: str, value: str, protocol: Protocol) -> str:
    """What is wrong with a header, or an entry of metadata; "" if nothing is."""
    names, values = (_HEADER, _HEADER_VALUE) if protocol is Protocol.HTTP else (_METADATA, _METADATA_VALUE)
    if not names.fullmatch(name):
        return "this is no name" if protocol is Protocol.HTTP else "a name has lower-case letters, digits, '_-.' only"
    lower = name.lower()
    if lower in OURS:
        return "every call has it from the orchestrator"
    if protocol is Protocol.HTTP and lower in FRAMING:
        return "it says how a message is transferred, and is set by what transfers it"
    if protocol is Protocol.GRPC and lower.startswith("grpc-"):
        return "names that begin with grpc- are gRPC's own"
    if protocol is Protocol.GRPC and lower.endswith("-bin") and not is_base64(value):
        return "the value of a name that ends with -bin must be base64"
    if len(value) > HEADER_CHARACTERS_MAX:
        return f"it may have {HEADER_CHARACTERS_MAX} characters"
    return "" if values.fullmatch(value) else "it has characters that can't be sent"


def is_base64(text: str) -> bool:
    """Of the standard alphabet, padded."""
    return len(text) % 4 == 0 and _BASE64.fullmatch(text) is not None


def _descriptor_set(fields: Fields) -> str:
    text = fields.text("descriptorSet")
    if not is_base64(text):
        raise fields.invalid("descriptorSet", "it must be base64")
    if len(text) // 4 * 3 - text.count("=") > limits.DESCRIPTOR_SET_BYTES:
        raise fields.invalid("descriptorSet", f"it may have {limits.DESCRIPTOR_SET_BYTES} bytes")
    return text


def _breaker(fields: Fields) -> CircuitBreaker | None:
    if not fields.has("circuitBreaker"):
        return None
    breaker = _part(
        fields, "circuitBreaker", ("failureThreshold", "windowSeconds", "openSeconds", "halfOpenCalls")
    )
    window_ms, open_ms = breaker.seconds("windowSeconds", 10_000), breaker.seconds("openSeconds", 30_000)
    for key, value in (("windowSeconds", window_ms), ("openSeconds", open_ms)):
        if not 0 < value <= SECONDS_MAX * 1000:
            raise breaker.invalid(key, f"it must be more than 0 and at most {SECONDS_MAX} seconds")
    return CircuitBreaker(
        failures=breaker.integer("failureThreshold", 5, least=1, most=FAILURES_MAX),
        window_ms=window_ms,
        open_ms=open_ms,
        half_open_calls=breaker.integer("halfOpenCalls", 1, least=1, most=CALLS_MAX),
    )
