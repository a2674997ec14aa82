"""Every error this package raises on purpose.

ReplicationError
├── NotLeader            the command was not taken: send it to `leader` (certain: it has no effect)
├── OutcomeUnknown       the command may or may not take effect: repeat it only under the same request identity
├── Overloaded           the command was not taken for want of room: certain, try later
├── LostLeadership       a read could not be confirmed; nothing was changed, ask again
├── SnapshotUnfit        a snapshot that arrived is not what it was made of: nothing was touched, ask for another
├── SnapshotInstalled    the applier is behind a snapshot: continue from (index, term)
├── EntryTooLarge        the caller's entry is over the limit
├── RaiseRefused         the behaviour level stays as it is
├── LevelTooLow          the command is of a behaviour level above the cluster's (certain: it has no effect)
├── MembershipError      the change of members was not begun (certain: it has no effect)
│   ├── NoSuccessor · ChangeInProgress · WouldLoseQuorum · UnknownMember · MemberExists · InvalidMember
├── Stopped              this node is stopping
├── JournalCorrupt       durable data is damaged or missing: the node must not start
└── IdentityError        the data directory is not the one this node needs
    ├── NotInitialised · DirectoryNotBlank · WrongNode · WrongCluster · Superseded · DirectoryInUse
    ├── FormatUnsupported    a newer release wrote it: run that one
    └── LevelUnsupported     the cluster is at a behaviour level that this release does not know: run one that does
"""

from __future__ import annotations


class ReplicationError(Exception):
    """Base of all errors raised on purpose by this package."""


class NotLeader(ReplicationError):
    """The command was not taken, and never will be: another node leads (or nobody does)."""

    def __init__(self, leader: str | None) -> None:
        super().__init__(f"this node is not the leader; the leader is {leader or 'unknown'}")
        self.leader = leader


class OutcomeUnknown(ReplicationError):
    """Leadership was lost while the command was being replicated: it may still take effect."""

    def __init__(self) -> None:
        super().__init__("leadership was lost while the command was being replicated: it may still take effect")


class Overloaded(ReplicationError):
    """The command was not taken, for want of room; it may be worth another try after a while."""

    def __init__(self, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class LostLeadership(ReplicationError):
    """Leadership was lost before a quorum confirmed the read; nothing was changed."""


class SnapshotUnfit(ReplicationError):
    """A snapshot that arrived whole is not a sound database of this cluster; the own one is untouched."""


class SnapshotInstalled(ReplicationError):
    """A snapshot replaced the database: apply continues after `index`."""

    def __init__(self, index: int, term: int) -> None:
        super().__init__(f"a snapshot was installed: the database now stands at index {index} of term {term}")
        self.index = index
        self.term = term


class EntryTooLarge(ReplicationError):
    """The entry is over `entry_bytes_max`."""


class LevelTooLow(ReplicationError):
    """Not all nodes need to know this command as long as the behaviour level is what it is."""


class RaiseRefused(ReplicationError):
    """The behaviour level can't be raised; the message says because of which nodes."""


class MembershipError(ReplicationError):
    """The change of members was refused, and has no effect."""


class NoSuccessor(MembershipError):
    """Nobody can take leadership over now; `node` is who was meant, "" for anybody."""

    def __init__(self, node: str = "") -> None:
        super().__init__(
            f"{node or 'no other node that is in service'} can't take over now: it is away, has no vote, or has not "
            "caught up"
        )


class ChangeInProgress(MembershipError):
    """One change at a time: another one is not committed yet, or its learner has not caught up."""


class WouldLoseQuorum(MembershipError):
    """The members that can be reached now would be no majority after the change."""


class UnknownMember(MembershipError):
    """No member or learner has this name."""


class MemberExists(MembershipError):
    """The name is taken, by another data directory."""


class InvalidMember(MembershipError):
    """The name, the incarnation or the address can't be one."""


class Stopped(ReplicationError):
    """This node is stopping."""


class JournalCorrupt(ReplicationError):
    """Durable data is damaged or missing; starting anyway could lose acknowledged entries."""


class IdentityError(ReplicationError):
    """The data directory is not the one this node needs."""


class NotInitialised(IdentityError):
    """The data directory has no node.json."""


class DirectoryNotBlank(IdentityError):
    """`init` was asked to overwrite a data directory."""


class WrongNode(IdentityError):
    """The data directory belongs to another node."""


class WrongCluster(IdentityError):
    """The data directory belongs to another cluster."""


class Superseded(IdentityError):
    """The cluster was recovered without this node, whose data are of the epoch before."""


class FormatUnsupported(IdentityError):
    """A newer release has written it."""


class LevelUnsupported(IdentityError):
    """The cluster is at a behaviour level that this release does not know: it must not go on."""


class DirectoryInUse(IdentityError):
    """Another process works in the data directory."""
