"""What a certificate says: whom it is for, what for, and until when."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Self, TypeVar

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Extension = TypeVar("Extension", bound=x509.ExtensionType)


@dataclass(frozen=True)
class Certificate:
    """The parts of an X.509 certificate that decide something here."""

    common_name: str
    dns_names: tuple[str, ...]
    addresses: tuple[IpAddress, ...]
    issuer: str
    serial_number: int
    begins: datetime
    ends: datetime
    is_authority: bool
    # As its extended key usages say; without any it is good for both.
    for_servers: bool
    for_clients: bool

    @classmethod
    def from_der(cls, data: bytes) -> Self:
        """Raises ValueError."""
        with _unreadable():
            return cls._of(x509.load_der_x509_certificate(data))

    @classmethod
    def all_of(cls, pem: bytes) -> list[Self]:
        """Those in the file's text, in their order, at least one. Raises ValueError."""
        with _unreadable():
            return [cls._of(each) for each in x509.load_pem_x509_certificates(pem)]

    @classmethod
    def _of(cls, found: x509.Certificate) -> Self:
        alternative = _extension(found, x509.SubjectAlternativeName)
        basic = _extension(found, x509.BasicConstraints)
        usages = _extension(found, x509.ExtendedKeyUsage)
        return cls(
            common_name=_common_name(found.subject),
            dns_names=tuple(alternative.get_values_for_type(x509.DNSName)) if alternative else (),
            addresses=_addresses(alternative),
            issuer=_common_name(found.issuer) or found.issuer.rfc4514_string(),
            serial_number=found.serial_number,
            begins=found.not_valid_before_utc,
            ends=found.not_valid_after_utc,
            is_authority=basic is not None and basic.ca,
            for_servers=usages is None or _allows(usages, ExtendedKeyUsageOID.SERVER_AUTH),
            for_clients=usages is None or _allows(usages, ExtendedKeyUsageOID.CLIENT_AUTH),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that it is valid for, as text."""
        return (*self.dns_names, *map(str, self.addresses))

    def valid_for(self, host: str) -> bool:
        """Whether who is dialled at this host may show it: by RFC 6125, as TLS itself decides it."""
        try:
            return ipaddress.ip_address(host) in self.addresses
        except ValueError:
            return any(_matches(name, host) for name in self.dns_names)

    def __str__(self) -> str:
        return f"{self.common_name or 'without a name'} ({', '.join(self.names) or 'no alternative names'})"


@contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(f"a certificate can't be read: {error}") from error


def _matches(pattern: str, host: str) -> bool:
    pattern, host = pattern.lower().rstrip("."), host.lower().rstrip(".")
    if pattern.startswith("*."):
        # For one label, and never for a whole top-level domain.
        return pattern.count(".") >= 2 and host.partition(".")[2] == pattern[2:]
    return pattern == host


def _addresses(alternative: x509.SubjectAlternativeName | None) -> tuple[IpAddress, ...]:
    found = alternative.get_values_for_type(x509.IPAddress) if alternative else []
    return tuple(each for each in found if isinstance(each, ipaddress.IPv4Address | ipaddress.IPv6Address))


def _common_name(name: x509.Name) -> str:
    return "".join(str(each.value) for each in name.get_attributes_for_oid(NameOID.COMMON_NAME)[:1])


def _allows(usages: x509.ExtendedKeyUsage, usage: x509.ObjectIdentifier) -> bool:
    return usage in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
