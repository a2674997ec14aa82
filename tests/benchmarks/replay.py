"""What a follower spends on a W3: `python -m tests.benchmarks.replay [--workflows N] [--rounds N] [--log FILE]`.

A simulated cluster makes a log of W3. Then a real follower (all of a node but gRPC, on this machine's disk) is told
that log, entry by entry as in a busy cluster, by a leader that is a few lines of this file. So a round is a process
that does the same as in any other round: no socket and no other process is in what is measured. Two versions that are
given the same FILE, which is written if it is not there, must end with the same hashes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from orchestrator.config import Config
from orchestrator.node import Node
from orchestrator.replication import identity as identities
from orchestrator.replication.configuration import Configuration, Member
from orchestrator.replication.files import RealFiles
from orchestrator.replication.frames import (
    PROTOCOL_VERSION,
    Ack,
    AnyMessage,
    Append,
    FrameReader,
    Heartbeat,
    Hello,
    WireEntry,
    encode_frame,
)
from orchestrator.replication.segment import EntryKind
from orchestrator.running import THREAD_SWITCH_SECONDS, settle_memory
from orchestrator.testing.cluster import Cluster
from orchestrator.testing.member import CLUSTER
from orchestrator.testing.nodes import LogObserver, TestMember
from orchestrator.world import World
from tests.benchmarks.costs import run_w3
from tests.benchmarks.workload import first, second, third

CONCURRENCY = 128
WARM_UP = 200
# What takes a second in a cluster takes less here, so as many workflows end between two transactions of the database.
FLUSH_INTERVAL_MS = 400
LEADER, FOLLOWER = "a", "b"
ADDRESSES = {LEADER: "127.0.0.1:1", FOLLOWER: "127.0.0.1:2"}
TERM = 1
FRAME_BYTES_MAX = 1 << 24
DEADLINE_S = 30.0


class Recorded(msgspec.Struct):
    """A log from index 1 on."""

    entries: list[tuple[int, bytes]]  # their kinds and bytes
    warm: int  # so many come before what is counted
    workflows: int


class Entries(LogObserver):
    """Keeps what the leader appends."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, bytes]] = []

    def appended(self, member: TestMember, index: int, kind: EntryKind, data: bytes) -> None:
        if index <= len(self.entries):
            raise RuntimeError(f"entry {index} was appended twice: there was another leader")
        self.entries.append((int(kind), data))


def record(workflows: int) -> Recorded:
    """The log of a simulated cluster that ran so many W3."""
    kept = Entries()
    with Cluster(seed=1, observer=kept) as cluster:

        async def run() -> int:
            cluster.serve(first, second, third, slots=2 * CONCURRENCY)
            await run_w3(cluster.client, CONCURRENCY, WARM_UP, "warm-up")
            warm = len(kept.entries)
            await run_w3(cluster.client, CONCURRENCY, workflows, "counted")
            return warm

        return Recorded(kept.entries, cluster.run(run()), workflows)


class Wire(asyncio.Transport):
    """One end of a connection, in memory."""

    def __init__(self, on_write: Callable[[bytes], None]) -> None:
        super().__init__()
        self._on_write = on_write

    def write(self, data: Any) -> None:
        self._on_write(data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        """Ends with its process."""


class Leader:
    """All that the follower ever hears and dials."""

    def __init__(self, hello: Hello) -> None:
        self._hello = encode_frame(hello)
        self._factory: Callable[[], asyncio.Protocol] | None = None
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._hears: asyncio.Protocol | None = None
        self._acked = 0
        self._moved = asyncio.Event()

    async def listen(self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: object) -> Any:
        self._factory = factory
        return await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)

    async def dial(self, host: str, port: int, factory: Callable[[], asyncio.Protocol], tls: object) -> None:
        spoken = factory()
        spoken.connection_made(Wire(self._heard))
        spoken.data_received(self._hello)

    def connect(self) -> None:
        """To the follower, which has started."""
        assert self._factory is not None
        self._hears = self._factory()
        self._hears.connection_made(Wire(lambda data: None))
        self._hears.data_received(self._hello)

    def say(self, message: AnyMessage) -> None:
        assert self._hears is not None
        self._hears.data_received(encode_frame(message))

    def _heard(self, data: bytes) -> None:
        for message in self._reader.feed(data):
            if isinstance(message, Ack):
                self._acked = message.match_index
                self._moved.set()

    async def acknowledged(self, index: int) -> None:
        while self._acked < index:
            self._moved.clear()
            await self._moved.wait()

    async def tell(self, entries: list[tuple[int, bytes]], first: int) -> None:
        """From this index on, each once the one before is durable there."""
        for index, (kind, data) in enumerate(entries, first):
            entry = WireEntry(TERM, EntryKind(kind), data)
            self.say(Append(TERM, index - 1, TERM if index > 1 else 0, index - 1, [entry]))
            await self.acknowledged(index)


async def play(recorded: Recorded, folder: Path) -> dict[str, Any]:
    """CPU-seconds for 1,000 workflows, by thread; and where the follower then stands."""
    data_dir = folder / "data"
    identity = identities.initialise(RealFiles(), data_dir, CLUSTER, FOLLOWER, ADDRESSES)
    incarnations = {LEADER: "leader", FOLLOWER: identity.incarnation}
    members = {name: Member(incarnations[name], ADDRESSES[name]) for name in ADDRESSES}
    leader = Leader(
        Hello(PROTOCOL_VERSION, CLUSTER, LEADER, "leader", ADDRESSES[LEADER], list(ADDRESSES),
              Configuration(members=members), 0, True)
    )
    peer_listen, flush_interval_ms = ADDRESSES[FOLLOWER], FLUSH_INTERVAL_MS
    config = Config(node=FOLLOWER, data_dir=data_dir, peer_listen=peer_listen, flush_interval_ms=flush_interval_ms)
    node = Node(config, World(network=leader))
    await node.start()
    leader.connect()
    async with asyncio.timeout(DEADLINE_S):
        while not node._log._core.participating:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.001)
    leader.say(Heartbeat(TERM, 0, 1))
    warm, last = recorded.warm, len(recorded.entries)
    await leader.tell(recorded.entries[:warm], 1)
    leader.say(Heartbeat(TERM, warm, 2))
    await node._applier.wait_applied(warm)
    await node._settle()
    settle_memory()
    before, began, spent = _threads(), time.monotonic(), time.process_time()
    await leader.tell(recorded.entries[warm:], warm + 1)
    leader.say(Heartbeat(TERM, last, 3))
    await node._applier.wait_applied(last)
    await node._settle()
    per = 1000 / recorded.workflows
    threads = {name: round((cpu - before.get(name, 0.0)) * per, 4) for name, cpu in _threads().items()}
    return {
        "cpu_s": round((time.process_time() - spent) * per, 4),
        "elapsed_s": round((time.monotonic() - began) * per, 4),
        **threads,
        "chain": node._machine().chain.hex()[:16],
        "content": f"{node._database.applied().content_hash:032x}"[:16],
    }


def _threads() -> dict[str, float]:
    """CPU-seconds of the loop's thread, and of all others."""
    loop = time.thread_time()
    return {"loop": loop, "others": time.process_time() - loop}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workflows", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", type=Path, help="a recorded log; written if it is not there")
    parser.add_argument("--play", action="store_true", help="only this: one round of what --log has")
    options = parser.parse_args()
    if options.play:
        sys.setswitchinterval(THREAD_SWITCH_SECONDS)
        recorded = msgspec.msgpack.decode(options.log.read_bytes(), type=Recorded)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(uvloop.run(play(recorded, Path(folder)))), flush=True)
            # What still runs ends with the process.
        os._exit(0)
    with tempfile.TemporaryDirectory() as folder:
        path = options.log or Path(folder) / "log"
        if not path.exists():
            path.write_bytes(msgspec.msgpack.encode(record(options.workflows)))
        command = [sys.executable, "-m", "tests.benchmarks.replay", "--play", "--log", str(path)]
        rounds = []
        for _ in range(options.rounds):
            rounds.append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
            print(rounds[-1], flush=True)
        print("median:", {name: statistics.median(one[name] for one in rounds) for name in ("cpu_s", "loop", "others")})


if __name__ == "__main__":
    main()
