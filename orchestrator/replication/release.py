"""What a node runs: the version of the software, and the behaviour levels that it can compute.

A cluster is at one level. Nodes of two releases can be members together as long as both know it; it rises when all do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator import __version__
from orchestrator.engine import behaviour
from orchestrator.replication.errors import LevelUnsupported, RaiseRefused


@dataclass(frozen=True)
class Release:
    version: str
    lowest_level: int
    highest_level: int

    def supports(self, level: int) -> bool:
        return self.lowest_level <= level <= self.highest_level

    @property
    def levels(self) -> str:
        """For people."""
        if self.lowest_level == self.highest_level:
            return str(self.highest_level)
        return f"{self.lowest_level} to {self.highest_level}"

    def require(self, level: int, what: str) -> None:
        """Raises LevelUnsupported unless it can compute this level; `what` says where that was found."""
        if self.supports(level):
            return
        newer = "a newer" if level > self.highest_level else "an older"
        raise LevelUnsupported(
            f"{what} at behaviour level {level}, and this is orchestrator {self.version}, which knows level "
            f"{self.levels}: run {newer} release here. A level that was raised is never lowered"
        )


THIS_RELEASE = Release(__version__, behaviour.LOWEST, behaviour.HIGHEST)


Releases = Mapping[str, "Release | None"]
"""What each member and learner runs; None of one that is not connected now, which may come back with another."""


def level_of_all(releases: Releases) -> int:
    """The highest level that all of them know; 0 while there is one of which nobody knows."""
    known = [release for release in releases.values() if release is not None]
    if not known or len(known) < len(releases):
        return 0
    return min(release.highest_level for release in known)


def check_raise(releases: Releases, level: int) -> None:
    """Raises RaiseRefused unless every one of them knows the level."""
    away = sorted(name for name, release in releases.items() if release is None)
    if away:
        raise RaiseRefused(
            f"what {', '.join(away)} runs is not known, for it can't be reached: the level is raised when all members "
            "are there, or are members no longer"
        )
    unfit = {name: release for name, release in releases.items() if release and not release.supports(level)}
    if unfit:
        known = ", ".join(f"{name} ({unfit[name].version}) knows {unfit[name].levels}" for name in sorted(unfit))
        raise RaiseRefused(f"not all members know level {level}: {known}")
