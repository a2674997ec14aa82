"""Who the members are, as the log says it: read from the records that nodes write, and from what was applied first."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.replication.configuration import Configuration, Member, decode


class Configurations:
    """Of a whole run. A holder is one data directory: a node that lost its disk comes back as another one."""

    def __init__(self, violated: Callable[[str], None]) -> None:
        self._violated = violated
        # Incarnation -> what it is called here.
        self._holders: dict[str, str] = {}
        # Every one that was ever written: (index, term) -> it. Some are rolled back later.
        self._written: dict[tuple[int, int], Configuration] = {}
        # The committed ones, as (index, it).
        self._committed: list[tuple[int, Configuration]] = []
        self.changes = 0

    def called(self, incarnation: str, holder: str) -> None:
        self._holders[incarnation] = holder

    def formed(self, incarnations: dict[str, str]) -> None:
        """The first one: node name -> incarnation."""
        members = {name: Member(incarnation, "") for name, incarnation in incarnations.items()}
        self._committed.append((0, Configuration(members=members)))

    def wrote(self, index: int, term: int, data: bytes) -> None:
        """A node has it in its journal."""
        self._written.setdefault((index, term), decode(data))

    def applied(self, index: int, term: int) -> None:
        """An entry was applied for the first time: if it is a configuration, this one is committed."""
        configuration = self._written.get((index, term))
        if configuration is None:
            return
        before = self.newest
        moved = _votes(before) ^ _votes(configuration)
        if len(moved) > 1:
            self._violated(f"the configuration of index {index} moves more than one vote: {sorted(moved)}")
        self._committed.append((index, configuration))
        self.changes += 1

    @property
    def newest(self) -> Configuration:
        """The newest committed one."""
        return self._committed[-1][1]

    def holders(self, configuration: Configuration) -> set[str]:
        """The data directories that count in it."""
        return {self._holders.get(member.incarnation, member.incarnation) for member in configuration.members.values()}

    def counted_by(self, index: int) -> list[set[str]]:
        """Whose copies may have counted when this entry was committed: by the one in force there, or by a later one.

        A leader counts by the newest in its journal, which may have come while the entry was under way.
        """
        placed = next(found for at, found in reversed(self._committed) if at <= index)
        later = [found for (at, _), found in self._written.items() if at > index]
        return [self.holders(configuration) for configuration in (placed, *later)]

    def losses_bearable(self) -> int:
        """How many disks may be lost now, by whatever configuration may be in force."""
        index = self._committed[-1][0]
        later = [found for (at, _), found in self._written.items() if at > index]
        return min((len(configuration.members) - 1) // 2 for configuration in (self.newest, *later))


def _votes(configuration: Configuration) -> set[tuple[str, str]]:
    return {(name, member.incarnation) for name, member in configuration.members.items()}
