"""Who the members are, as entries of the log and the database hold it.

Members vote and are counted; learners only receive. Bytes in the log are msgpack, in the database JSON; both carry a
version, and a version that is not known stops the node: a guess at who votes could make two leaders.
"""

from __future__ import annotations

import msgspec

FORMAT_VERSION = 1


class Member(msgspec.Struct, frozen=True):
    incarnation: str
    # host:port that peers dial.
    address: str


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    members: dict[str, Member]
    learners: dict[str, Member] = {}
    version: int = FORMAT_VERSION

    def find(self, name: str) -> Member | None:
        return self.members.get(name) or self.learners.get(name)

    def lists(self, name: str, incarnation: str) -> bool:
        found = self.find(name)
        return found is not None and found.incarnation == incarnation

    def names(self) -> list[str]:
        return sorted({*self.members, *self.learners})

    def without(self, name: str) -> Configuration:
        return Configuration(
            members={other: member for other, member in self.members.items() if other != name},
            learners={other: member for other, member in self.learners.items() if other != name},
        )

    def admitting(self, name: str, member: Member) -> Configuration:
        """With a learner of this name, in the place of whoever had the name."""
        rest = self.without(name)
        return Configuration(members=rest.members, learners={**rest.learners, name: member})

    def promoting(self, name: str) -> Configuration:
        """With this learner as a member."""
        rest = self.without(name)
        return Configuration(members={**rest.members, name: self.learners[name]}, learners=rest.learners)


class UnknownConfiguration(ValueError):
    """The bytes are not a configuration that this program knows."""


_decoder = msgspec.msgpack.Decoder(Configuration)


def encode(configuration: Configuration) -> bytes:
    """For an entry of the log."""
    return msgspec.msgpack.encode(configuration)


def decode(data: bytes) -> Configuration:
    """Raises UnknownConfiguration."""
    try:
        return _checked(_decoder.decode(data))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnknownConfiguration(f"a membership entry of the log cannot be read: {error}") from error


Placed = tuple[int, Configuration]
"""The index of the entry that a configuration came with, 0 for the first one; and the configuration."""


class _Stored(msgspec.Struct, frozen=True):
    index: int
    configuration: Configuration
    version: int = FORMAT_VERSION


def encode_stored(placed: Placed | None) -> bytes:
    """For the database."""
    return msgspec.json.encode(None if placed is None else _Stored(*placed))


def decode_stored(data: bytes, addresses: dict[str, str]) -> Placed | None:
    """What a database holds; None when it says nothing. `addresses` serve those that were stored without any."""
    if data in (b"", b"null"):
        return None
    try:
        document = msgspec.json.decode(data)
        if isinstance(document, dict) and not isinstance(document.get("version"), int):
            # The first format: name -> incarnation.
            return 0, initial(msgspec.convert(document, dict[str, str]), addresses)
        stored = msgspec.convert(document, _Stored)
        return stored.index, _checked(stored.configuration)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UnknownConfiguration(f"the configuration stored with the database cannot be read: {error}") from error


def initial(incarnations: dict[str, str], addresses: dict[str, str]) -> Configuration:
    """The configuration that a cluster is formed with."""
    return Configuration(
        members={name: Member(incarnation, addresses.get(name, "")) for name, incarnation in incarnations.items()}
    )


def _checked(configuration: Configuration) -> Configuration:
    if configuration.version != FORMAT_VERSION:
        raise UnknownConfiguration(
            f"a configuration has format version {configuration.version}, this program knows {FORMAT_VERSION}: "
            "upgrade this node"
        )
    return configuration


def address_parts(address: str) -> tuple[str, int] | None:
    """(host, port), or None when it is not host:port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not port.isascii() or not 0 < int(port[:6]) < 65536:
        return None
    return host.strip("[]"), int(port)
