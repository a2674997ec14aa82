"""Each known bug of stock PySyncObj, shown in its own class; beside it what our log does in the same place.

Where our side is tested elsewhere, the table in orchestrator/replication/DESIGN.md names the test.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pysyncobj
import pytest
from pysyncobj import SyncObjConf, journal, syncobj
from pysyncobj.pickle import dumps

from orchestrator.replication.files import replace_file
from orchestrator.replication.settings import RaftSettings
from tests.replication.cluster import Cluster, free_port
from tests.replication.stock import Clock, Journalist, Stock, Wire, Wires, clock
from tests.replication.test_transport import throw

__all__ = ["clock"]


class Killed(BaseException):
    """The process ends here."""


def alone(clock: Clock, **conf: Any) -> Stock:
    """One node, which leads and commits by itself."""
    stock = Stock(clock, "a", **conf)
    stock.elect("a")
    return stock


# -- B1: a message without entries moves the commit index over entries that nobody compared ------------------------


@pytest.mark.parametrize("serialized", [None, (b"the first piece", True, False)])
def test_b1_a_false_acknowledgement(clock: Clock, serialized: Any) -> None:
    stock = Stock(clock)
    stock.elect("a")
    stock.rounds()
    stock.wires.isolate("a")
    for item in range(10):
        stock.write("a", item)
    stock.rounds(names="a")
    assert stock.acknowledged == []
    # A leader that is writing its snapshot, or sends the first piece of it, says this.
    stock.hear("a", "b", type="append_entries", term=2, commit_index=50, serialized=serialized)
    stock.rounds(names="a")
    assert stock.acknowledged == list(range(10))
    assert [len(stock[name].written) for name in "abc"] == [10, 0, 0]


# -- B2, B3: dump and journal are not tied together ----------------------------------------------------------------


def test_b2_a_crash_between_dump_and_journal_wipes_what_came_after_the_dump(clock: Clock, tmp_path: Path) -> None:
    files = {"journalFile": str(tmp_path / "journal"), "fullDumpFile": str(tmp_path / "dump"), "useFork": False}
    stock = alone(clock, **files)
    for item in range(100):
        stock.write("a", item)
    stock.rounds()
    stock["a"].forceLogCompaction()
    stock.round()  # the dump is in place, the journal is cut in the next tick
    for item in range(100, 300):
        stock.write("a", item)

    def killed(position: int) -> None:
        raise Killed

    stock.private("a", "raftLog").deleteEntriesTo = killed
    stock["a"]._checkCommandsToApply()  # so that they are acknowledged in the tick that cuts the journal
    with pytest.raises(Killed):
        stock.rounds()
    assert stock.acknowledged == list(range(300))
    again = Stock(clock, "a", **files)
    again.elect("a")
    again.rounds()
    assert again["a"].written == list(range(100))


async def test_b2_ours_a_crash_between_database_and_journal_loses_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1)
    async with cluster:
        node = cluster["n1"]
        for item in range(30):
            await cluster.put(b"%d" % item)
        node.configuration = node.log.configuration_at(node.applied_index)
        replace_file(node.files, node.database, node._encode())  # and the log is not told that it may cut its journal
        for item in range(30, 50):
            await cluster.put(b"%d" % item)
        await node.kill()
        await node.start()
        await cluster.put(b"more")
        assert node.applied == [b"%d" % item for item in range(50)] + [b"more"]


def test_b3_without_a_dump_file_the_journal_is_cut_for_a_snapshot_in_memory(clock: Clock, tmp_path: Path) -> None:
    stock = alone(clock, journalFile=str(tmp_path / "journal"))
    for item in range(1000):
        stock.write("a", item)
    stock.rounds()
    stock["a"].forceLogCompaction()
    stock.rounds()
    assert len(stock.acknowledged) == 1000
    again = Stock(clock, "a", journalFile=str(tmp_path / "journal"))
    again.elect("a")
    again.write("a", "and now?")
    again.rounds(20)
    assert again["a"].written == []
    assert again.acknowledged == []


# -- B4: a follower with a conflicting tail never catches up -------------------------------------------------------


def test_b4_a_conflicting_tail_is_never_replaced_when_the_leader_sends_two_batches(clock: Clock) -> None:
    stock = Stock(clock, appendEntriesBatchSizeBytes=1024)
    stock.elect("a")
    stock.rounds()
    stock.wires.isolate("a")
    for item in range(20):
        stock.write("a", f"{item}".ljust(100))
    stock.rounds(names="a")
    stock.elect("b")
    for item in range(60):
        stock.write("b", f"{item}".ljust(100))
    stock.rounds(names="bc")
    assert len(stock["c"].written) == 60
    stock.elect("c")  # it begins to ask the others at the end of its own log
    stock.wires.heal("a")
    stock.rounds(500)
    stock.write("c", "more")
    stock.rounds()
    assert (len(stock["b"].written), len(stock["c"].written), stock["a"].written) == (61, 61, [])


# -- B5: a method that raises is applied again and again -----------------------------------------------------------


def test_b5_a_method_that_raises_is_applied_for_ever(clock: Clock) -> None:
    stock = alone(clock)
    stock.rounds()
    stock["a"].write_and_fail("once")
    stock.round()
    for _ in range(5):
        with pytest.raises(RuntimeError, match="a bug of the user's"):
            stock.round()
    assert stock["a"].written == ["once"] * 5


# -- B6: the first bytes of anybody are unpickled ------------------------------------------------------------------


class MakesADirectory:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def poisoned(path: Path) -> bytes:
    data = zlib.compress(dumps(MakesADirectory(path)))
    return struct.pack("i", len(data)) + data


def test_b6_a_stranger_runs_code(tmp_path: Path) -> None:
    port = free_port()
    node = Journalist(f"127.0.0.1:{port}", [], conf=SyncObjConf(autoTick=False))
    try:
        with socket.create_connection(("127.0.0.2", port)) as stranger:  # it was to listen on 127.0.0.1 alone
            stranger.sendall(poisoned(tmp_path / "made"))
            for _ in range(200):
                node.doTick(0.05)
                if (tmp_path / "made").exists():
                    break
        assert (tmp_path / "made").is_dir()
    finally:
        node.destroy()


async def test_b6_ours_the_same_bytes_are_dropped_and_counted(tmp_path: Path) -> None:
    async with Cluster(tmp_path, 1) as cluster:
        await cluster.put(b"x")
        await throw(cluster, poisoned(tmp_path / "made"))
        counters = cluster["n1"].log.status().counters
        assert sum(counters.get(reason, 0) for reason in ("oversized", "malformed")) == 1
        assert not (tmp_path / "made").exists()


# -- B7, B10: damage on disk ---------------------------------------------------------------------------------------


def test_b7_a_flipped_bit_in_the_journal_is_another_command(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written = journal.FileJournal(str(path))
    written.add(b"pay 100", 2, 1)
    written._destroy()
    content = bytearray(path.read_bytes())
    content[content.index(b"pay 100") + 4] ^= 8
    path.write_bytes(content)
    assert journal.FileJournal(str(path))[0] == (b"pay 900", 2, 1)


def test_b7_a_torn_page_keeps_the_node_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    written = journal.FileJournal(str(path))
    for index in range(2, 10):
        written.add(b"x" * 50, index, 1)
    written._destroy()
    content = bytearray(path.read_bytes())
    content[200:300] = bytes(100)  # never reached the disk; the end's offset, on another page, did
    path.write_bytes(content)
    with pytest.raises(struct.error):
        journal.FileJournal(str(path))


def test_b10_a_node_with_half_a_dump_leads_and_never_applies_anything(clock: Clock, tmp_path: Path) -> None:
    files = {"journalFile": str(tmp_path / "journal"), "fullDumpFile": str(tmp_path / "dump"), "useFork": False}
    stock = alone(clock, **files)
    for item in range(100):
        stock.write("a", item)
    stock.rounds()
    stock["a"].forceLogCompaction()
    stock.rounds()
    dump = tmp_path / "dump"
    dump.write_bytes(dump.read_bytes()[: dump.stat().st_size // 2])
    again = Stock(clock, "a", **files)
    again.elect("a")
    again.write("a", "and now?")
    again.rounds(20)
    assert again["a"]._isLeader()
    assert (again["a"].written, again.acknowledged, again.refused) == ([], [], [])


# -- B8: changes of the members overlap ----------------------------------------------------------------------------


def test_b8_three_changes_are_accepted_before_one_is_committed(clock: Clock) -> None:
    stock = Stock(clock, dynamicMembershipChange=True)
    stock.elect("a")
    stock.rounds()
    committed = stock["a"].raftCommitIndex
    stock.wires.isolate("a")
    refused: list[int] = []
    for name in "def":
        stock["a"].addNodeToCluster(pysyncobj.node.Node(name), callback=lambda result, reason: refused.append(reason))
    stock.rounds(names="a")
    assert stock["a"].raftCommitIndex == committed
    assert {node.id for node in stock["a"].otherNodes} == set("bcdef")
    assert refused == []


# -- B9: versions --------------------------------------------------------------------------------------------------


def test_b9_after_an_entry_of_an_unknown_version_the_next_ones_are_applied_twice(clock: Clock) -> None:
    stock = alone(clock)
    stock.rounds()
    stock.write("a", 0)
    stock["a"]._applyCommand(dumps(5), None, syncobj._COMMAND_TYPE.VERSION)
    for item in (1, 2):
        stock.write("a", item)
    stock.rounds()
    assert stock["a"].written == [0, 1, 2, 2]


class Greeter(pysyncobj.SyncObj):  # type: ignore[misc]  # the library has no types
    @pysyncobj.replicated  # type: ignore[untyped-decorator]  # as above
    def greet(self) -> str:
        return "hello"

    @pysyncobj.replicated(ver=1)  # type: ignore[untyped-decorator,no-redef]  # as above
    def greet(self) -> str:  # noqa: F811 - as the library wants it
        return "good morning"


def test_b9_after_a_snapshot_the_old_version_is_called_again(clock: Clock) -> None:
    node = Greeter(pysyncobj.node.Node("a"), [], conf=SyncObjConf(autoTick=False), transport=Wire(Wires(), "a"))
    node._SyncObj__raftElectionDeadline = 0
    node.doTick()
    node.setCodeVersion(1)
    for _ in range(3):
        node.doTick()
    assert (node.getCodeVersion(), node._getFuncName("greet")) == (1, "greet_v1")
    node.forceLogCompaction()
    node.doTick()
    node._SyncObj__loadDumpFile(clearJournal=True)
    assert (node.getCodeVersion(), node._getFuncName("greet")) == (1, "greet_v0")


# -- B11: a batch that comes again removes what came after it ------------------------------------------------------


def test_b11_a_repeated_batch_removes_acknowledged_entries_and_then_their_lack_is_voted_for(clock: Clock) -> None:
    stock = Stock(clock)
    write = stock["b"]._methodToID["write_v0"]
    entries = [(b"\x00" + dumps((write, (index,))), index, 1) for index in range(2, 42)]

    def append(batch: list[Any]) -> None:
        stock.hear(
            "b", "a", type="append_entries", term=1, commit_index=41, entries=batch, prevLogIdx=1, prevLogTerm=0
        )

    append(entries)
    stock["b"].doTick()
    acknowledged = stock.wires.under_way.pop()[2]
    assert (acknowledged["success"], acknowledged["next_node_idx"]) == (True, 42)
    assert len(stock["b"].written) == 40
    append(entries[:5])
    assert stock.log("b")[-1] == (6, 1)
    stock.wires.under_way.clear()
    stock.hear("b", "c", type="request_vote", term=2, last_log_index=6, last_log_term=1)
    assert stock.wires.under_way.pop() == ("b", "c", {"type": "response_vote", "term": 2})


# -- B12: a child that writes a snapshot holds the sockets ---------------------------------------------------------

FORKS = """
import sys, time
import pysyncobj

class Slow:
    def __reduce__(self):
        print("forked", flush=True)
        open(sys.argv[2]).read()  # a state of some size takes its time
        return int, ()

class Node(pysyncobj.SyncObj):
    def __init__(self):
        conf = pysyncobj.SyncObjConf(autoTick=False, fullDumpFile=sys.argv[3])
        super().__init__("127.0.0.1:" + sys.argv[1], [], conf=conf)
        self.state = Slow()

node = Node()
while node.raftLastApplied < 2:
    node.doTick(0.01)
node.forceLogCompaction()
node.doTick(0.01)
time.sleep(60)
"""


def test_b12_the_child_of_a_killed_node_holds_its_port(tmp_path: Path) -> None:
    port, pipe = free_port(), tmp_path / "pipe"
    os.mkfifo(pipe)
    arguments = [sys.executable, "-c", FORKS, str(port), str(pipe), str(tmp_path / "dump")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as node:
        assert node.stdout is not None
        try:
            assert node.stdout.readline() == "forked\n"
            node.kill()
            node.wait()
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass  # nobody will ever answer
            with socket.socket() as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    server.bind(("127.0.0.1", port))
        finally:
            pipe.write_text("go on")
            # It has ended when nobody holds the other end any more.
            node.stdout.read()


def test_b12_ours_nothing_forks() -> None:
    sources = Path(__file__).parents[2] / "orchestrator"
    found = [path for path in sources.rglob("*.py") if "os.fork" in path.read_text(encoding="utf-8")]
    assert not found


# -- B13: nothing is synced ----------------------------------------------------------------------------------------


class Syncs:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for name in ("fsync", "fdatasync", "sync"):
            monkeypatch.setattr(os, name, self._counting(getattr(os, name)))
        if hasattr(os, "RWF_DSYNC"):
            monkeypatch.setattr(os, "pwritev", self._counting_synced(os.pwritev))
        flush = journal.ResizableFile.flush
        monkeypatch.setattr(journal.ResizableFile, "flush", self._counting(flush))

    def _counting(self, call: Any) -> Any:
        def counted(*args: Any) -> Any:
            self.count += 1
            return call(*args)

        return counted

    def _counting_synced(self, write: Any) -> Any:
        def counted(descriptor: int, data: Any, offset: int, flags: int = 0) -> Any:
            self.count += bool(flags & os.RWF_DSYNC)
            return write(descriptor, data, offset, flags)

        return counted


def test_b13_commands_and_votes_are_acknowledged_and_never_synced(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = Syncs(monkeypatch)
    stock = alone(clock, journalFile=str(tmp_path / "journal"), fullDumpFile=str(tmp_path / "dump"), useFork=False)
    for item in range(2000):
        stock.write("a", item)
    stock.rounds()
    stock["a"].forceLogCompaction()
    stock.rounds()
    assert len(stock.acknowledged) == 2000
    assert (tmp_path / "dump").exists()
    assert syncs.count == 0


async def test_b13_ours_nothing_is_acknowledged_without_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Cluster(tmp_path, 1) as cluster:
        await cluster.put(b"first")
        syncs = Syncs(monkeypatch)
        for count in range(1, 6):
            await cluster.put(b"%d" % count)
            assert syncs.count >= count


# -- B14: an entry as large as a batch -----------------------------------------------------------------------------


def test_b14_the_pieces_of_a_large_entry_end_too_early(clock: Clock) -> None:
    stock = Stock(clock, "ab", appendEntriesBatchSizeBytes=1024)
    stock.elect("a")
    stock.rounds()
    stock["a"]._applyCommand(bytes(range(128, 256)) * 16, None, syncobj._COMMAND_TYPE.REGULAR)
    with pytest.raises(EOFError):
        stock.rounds(20)


async def test_b14_ours_an_entry_larger_than_a_batch_arrives(tmp_path: Path) -> None:
    settings = RaftSettings(batch_bytes_max=1024, probe_bytes_max=1024, in_flight_bytes_max=2048)
    async with Cluster(tmp_path, settings=settings) as cluster:
        large = bytes(range(128, 256)) * 800
        await cluster.put(large)
        await cluster.converged()
        assert [node.applied for node in cluster.nodes.values()] == [[large]] * 3


# -- the table of them ---------------------------------------------------------------------------------------------

TESTS = Path(__file__).parents[1]
DESIGN = TESTS.parent / "orchestrator" / "replication" / "DESIGN.md"


def test_the_table_names_all_fourteen_and_tests_that_exist() -> None:
    rows = re.findall(r"^\| B(\d+) \|(.*)\|$", DESIGN.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 15))
    here = set(globals())
    for number, row in rows:
        *_, shown_by, ours = row.split(" | ")
        assert shown_by == f"`b{number}`"
        assert any(name.startswith(f"test_b{number}_") for name in here)
        assert "`b" in ours or "`test_" in ours
        if f"`b{number}_ours`" in ours:
            assert any(name.startswith(f"test_b{number}_ours_") for name in here)
        for path, test in re.findall(r"(?:`([\w/]+\.py)` )?`(test_\w+)`", ours):
            assert_there(path, test)


def assert_there(path: str, test: str) -> None:
    """Without a path it is in the file of the test before it."""
    places = [TESTS.parent / path] if "/" in path else sorted((TESTS / "replication").glob(path or "test_*.py"))
    places += [] if path else sorted(TESTS.rglob("test_*.py"))
    assert any(f"def {test}(" in place.read_text(encoding="utf-8") for place in places), test
