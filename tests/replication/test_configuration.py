"""Which configuration is in force: from the journal, the database, or the admission; and what its bytes are."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orchestrator.replication import configuration as configurations
from orchestrator.replication.configuration import Configuration, Member, UnknownConfiguration
from orchestrator.replication.frames import PROTOCOL_VERSION, Append, Hello, PreVoteReply, VoteReply, WireEntry
from orchestrator.replication.hard_state import HardState
from orchestrator.replication.identity import Identity
from orchestrator.replication.log import Role
from orchestrator.replication.membership import Membership, Standing
from orchestrator.replication.segment import EntryKind
from tests.replication.bench import Bench
from tests.replication.cluster import Cluster
from tests.replication.journals import Disk
from tests.replication.power_loss import PowerLossFiles

THREE = configurations.initial(dict.fromkeys(("n1", "n2", "n3"), "i"), {"n1": "host:1"})
FOUR = THREE.admitting("n4", Member("i", "host:4"))
GROWN = FOUR.promoting("n4")
IDENTITY = Identity(cluster_id="c", node="n1", incarnation="i", members={"n1": "host:1"})


def new_disk(files: PowerLossFiles) -> Disk:
    files.make_durable_directory(Path("/data"))
    return Disk(files, Path("/data/raft"))


def names(membership: Membership) -> tuple[list[str], list[str]]:
    found = membership.configuration
    return (sorted(found.members), sorted(found.learners)) if found is not None else ([], [])


def test_learners_are_listed_and_do_not_vote() -> None:
    assert (sorted(FOUR.members), sorted(FOUR.learners)) == (["n1", "n2", "n3"], ["n4"])
    assert FOUR.lists("n4", "i") and not FOUR.lists("n4", "other")
    assert (sorted(GROWN.members), GROWN.learners) == (["n1", "n2", "n3", "n4"], {})
    assert GROWN.without("n4") == THREE
    # In the place of a member: one vote less until it has caught up.
    assert sorted(GROWN.admitting("n4", Member("new", "host:5")).members) == ["n1", "n2", "n3"]


def test_bytes_read_back_and_an_unknown_version_is_refused() -> None:
    assert configurations.decode(configurations.encode(FOUR)) == FOUR
    assert configurations.decode_stored(configurations.encode_stored((7, FOUR)), {}) == (7, FOUR)
    later = msgspec.structs.replace(FOUR, version=2)
    with pytest.raises(UnknownConfiguration, match="version 2"):
        configurations.decode(configurations.encode(later))
    with pytest.raises(UnknownConfiguration, match="version 2"):
        configurations.decode_stored(configurations.encode_stored((7, later)), {})
    for broken in (b"x", b"\x93", b""):
        with pytest.raises(UnknownConfiguration):
            configurations.decode(broken)


def test_what_older_databases_hold_is_understood() -> None:
    assert configurations.decode_stored(b"", {}) is None
    assert configurations.decode_stored(b"null", {}) is None
    found = configurations.decode_stored(b'{"n1":"a","version":"b"}', {"n1": "host:1"})
    assert found == (0, Configuration(members={"n1": Member("a", "host:1"), "version": Member("b", "")}))


@pytest.mark.parametrize(
    ("address", "parts"),
    [("a:1", ("a", 1)), ("[::1]:65535", ("::1", 65535)), ("a:0", None), ("a:65536", None), ("a", None), (":1", None),
     ("a:x", None), ("a:1" + "0" * 5000, None)],
)
def test_addresses(address: str, parts: tuple[str, int] | None) -> None:
    assert configurations.address_parts(address) == parts


async def test_the_newest_in_the_journal_counts_and_goes_with_it() -> None:
    disk = new_disk(PowerLossFiles())
    disk.hard_state.current = disk.hard_state.durable = HardState(0, None, dict.fromkeys(("n1", "n2", "n3"), "i"))
    membership = Membership(IDENTITY, disk.hard_state, disk.journal)
    disk.journal.on_configuration = membership.refresh
    assert names(membership) == (["n1", "n2", "n3"], [])
    disk.journal.append(1, 1, EntryKind.NO_OP, b"")
    disk.journal.append(2, 1, EntryKind.CONFIGURATION, configurations.encode(FOUR))
    assert (names(membership), membership.index) == ((["n1", "n2", "n3"], ["n4"]), 2)
    disk.journal.append(3, 1, EntryKind.CONFIGURATION, configurations.encode(GROWN))
    assert membership.at(2) == (2, FOUR) and membership.at(1) == (0, THREE)
    await disk.journal.sync()
    disk.journal.truncate_from(3)
    assert (names(membership)[1], membership.index) == (["n4"], 2)
    disk.journal.truncate_from(2)
    assert (names(membership)[1], membership.index) == ([], 0)
    disk.close()


async def test_it_is_known_before_the_first_vote_after_a_start() -> None:
    files = PowerLossFiles()
    disk = new_disk(files)
    disk.journal.append(1, 1, EntryKind.CONFIGURATION, configurations.encode(FOUR))
    await disk.journal.sync()
    disk.close()
    again = Disk(files.power_loss(), Path("/data/raft"))
    membership = Membership(IDENTITY, again.hard_state, again.journal)
    assert names(membership)[1] == ["n4"]
    # Of the database and the journal, the journal's is the newer one; below it the database's counts.
    stored = Membership(IDENTITY, again.hard_state, again.journal, stored=(1, THREE))
    assert names(stored)[1] == ["n4"]
    again.journal.reset(9, 2)
    installed = Membership(IDENTITY, again.hard_state, again.journal, stored=(5, GROWN))
    assert names(installed) == (sorted(GROWN.members), [])
    again.close()


async def test_an_admission_survives_a_crash_before_the_first_entry() -> None:
    disk = new_disk(PowerLossFiles())
    admitted = configurations.encode_stored((5, FOUR))
    disk.hard_state.current = disk.hard_state.durable = HardState(0, None, {"n1": "i"}, admitted)
    identity = Identity(cluster_id="c", node="n4", incarnation="i", members={"n4": "host:4"})
    membership = Membership(identity, disk.hard_state, disk.journal)
    assert (membership.standing, membership.votes, membership.index) == (Standing.FORMED, False, 5)
    disk.close()


async def test_who_waits_dials_the_members_of_today() -> None:
    """Those it was initialised with may all have gone, and only the leader can admit it."""
    disk = new_disk(PowerLossFiles())
    identity = Identity(cluster_id="c", node="n9", incarnation="i9", members={"n1": "host:1", "n9": "host:9"})
    announced: list[list[str]] = []
    membership = Membership(
        identity, disk.hard_state, disk.journal, on_announce=lambda: announced.append(membership.peers())
    )
    assert membership.peers() == ["n1"]
    hello = Hello(PROTOCOL_VERSION, "c", "n1", "i", "host:1", ["n1"], GROWN, 7, False)
    membership.heard(hello)
    assert membership.peers() == ["n1"], "it is not committed"
    membership.heard(msgspec.structs.replace(hello, configuration_committed=True))
    assert announced == [sorted(GROWN.members)]
    assert membership.address_of("n4") == ("host", 4)
    assert not membership.hears("n4", "i"), "whom it dials it does not believe"
    disk.close()


async def test_votes_and_pre_votes_of_learners_do_not_count() -> None:
    bench = Bench()
    bench.raft.reconfigure(frozenset(("n1", "n2", "n3")), frozenset(("n4", "n5")), set(), is_voter=True)
    elections = bench.raft.elections
    elections._start_pre_vote()
    assert {name for name, _ in bench.take()} == {"n2", "n3"}
    for name in ("n4", "n5"):
        bench.hear(name, PreVoteReply(0, 1, True))
    assert bench.role() is Role.FOLLOWER
    bench.hear("n2", PreVoteReply(0, 1, True))
    assert bench.role() is Role.CANDIDATE
    await bench.settle()
    bench.tick()
    for name in ("n4", "n5"):
        bench.hear(name, VoteReply(1, True))
    assert bench.role() is Role.CANDIDATE
    bench.hear("n3", VoteReply(1, True))
    assert bench.role() is Role.LEADER
    bench.disk.close()


async def test_a_learner_never_campaigns_and_its_copy_commits_nothing() -> None:
    bench = Bench()
    bench.raft.reconfigure(frozenset(("n2", "n3")), frozenset(("n1",)), set(), is_voter=False)
    for _ in range(5):
        assert bench.tick(after_ms=1000) == []
    assert (bench.role(), bench.raft.term) == (Role.FOLLOWER, 0)
    # It takes what a leader sends, and is ready to vote: a later entry may have made it a voter.
    bench.hear("n2", Append(1, 0, 0, 0, [WireEntry(1, EntryKind.CONFIGURATION, configurations.encode(THREE))]))
    assert bench.raft.last_index == 1
    bench.disk.close()


async def test_the_install_of_a_snapshot_goes_through_no_older_configuration(tmp_path: Path) -> None:
    """Members that the older one does not know would be cut off for a moment: perhaps the leader that sent it."""
    async with Cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        await cluster.put(b"x")
        await cluster.converged()
        follower = cluster.others(leader)[0]
        cluster.network.isolate(follower.name)
        core = follower.log._core
        before = follower.log.status().configuration
        assert before is not None
        changed = before.admitting("n9", Member("f" * 32, "127.0.0.1:1"))
        core.journal.append(core.last_index + 1, core.term, EntryKind.CONFIGURATION, configurations.encode(changed))
        placed = (core.last_index, changed)
        seen: list[frozenset[str]] = []
        reconfigure = core.reconfigure

        def note(voters: frozenset[str], learners: frozenset[str], renewed: set[str], *, is_voter: bool) -> None:
            seen.append(learners)
            reconfigure(voters, learners, renewed, is_voter=is_voter)

        core.reconfigure = note  # type: ignore[method-assign]  # listens
        await follower.log._in_step.snapshot_installed(100, core.term, configurations.encode_stored(placed))
        assert follower.log.status().configuration == changed
        assert all(learners == {"n9"} for learners in seen)
        # What the test wrote behind the cluster's back must not meet the others again.
        await follower.log.stop()
