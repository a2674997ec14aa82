"""The processes: how many there are, what becomes of them, what they have of the node, and that none is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from orchestrator.integrations.sandbox import process as process_module
from orchestrator.integrations.sandbox.protocol import Answer, AnyRequest, Limits, Verdict
from orchestrator.integrations.sandbox.sandbox import Sandbox, SandboxUnavailable
from tests.integrations.sandbox.processes import DEADLINE_S, DEAF, ENDLESS, descriptors, is_alive, ready, told, until

LIMITS = Limits(time_ms=50_000)
# Some tenths of a second of work, which gives the same result again.
BUSY = "let s = 0; for (let i = 0; i < 2e6; i++) s += i % 7; s"
BUSY_RESULT = b"5999995"


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    made = Sandbox(size=1, limits=LIMITS)
    yield made
    await made.close()


async def test_processes_are_started_when_they_are_needed(sandbox: Sandbox) -> None:
    assert sandbox.pids == []
    pid = await ready(sandbox)
    assert await ready(sandbox) == pid
    assert sandbox.processes_started_total == 1


async def test_no_more_are_started_than_there_may_be() -> None:
    sandbox = Sandbox(size=2, limits=LIMITS)
    answers = await asyncio.gather(*(sandbox.script(BUSY, b"{}") for _ in range(5)))
    assert [answer.value for answer in answers] == [BUSY_RESULT] * 5
    assert len(sandbox.pids) == sandbox.processes_started_total == 2
    # One after the other they need one only, and it is the same.
    for _ in range(5):
        await sandbox.script("1", b"{}")
    await sandbox.close()


async def test_many_evaluations_at_once_each_get_their_own_answer() -> None:
    sandbox = Sandbox(size=3, limits=LIMITS)

    async def one(number: int) -> bool:
        given = b'{"n":%d}' % number
        match number % 3:
            case 0:
                return (await sandbox.script("$.n * 2", given)).value == b"%d" % (number * 2)
            case 1:
                return (await sandbox.query(".n, .n + 1", given)).value == b"[%d,%d]" % (number, number + 1)
            case _:
                found = (await sandbox.validate('{"properties":{"n":{"maximum":0}}}', given)).value
                return found.startswith(b'["$.n: %d is greater' % number)

    assert all(await asyncio.gather(*(one(number) for number in range(900))))
    assert sandbox.processes_started_total == 3
    await sandbox.close()


async def test_more_requests_than_may_wait_are_refused() -> None:
    sandbox = Sandbox(size=1, waiting_max=2, limits=LIMITS)
    await ready(sandbox)
    running = [asyncio.create_task(sandbox.script(BUSY, b"{}")) for _ in range(3)]
    await asyncio.sleep(0)
    assert await sandbox.script("1", b"{}") == Answer(Verdict.UNAVAILABLE, message="2 evaluations wait already")
    assert [answer.value for answer in await asyncio.gather(*running)] == [BUSY_RESULT] * 3
    assert (await sandbox.script("1", b"{}")).value == b"1"
    await sandbox.close()


async def test_an_evaluation_whose_process_is_killed_is_done_again(sandbox: Sandbox) -> None:
    pid = await ready(sandbox)
    running = asyncio.create_task(sandbox.script(BUSY, b"{}"))
    await asyncio.sleep(0)  # it has been sent
    os.kill(pid, signal.SIGKILL)
    assert (await running).value == BUSY_RESULT
    assert sandbox.processes_started_total == 2


async def test_an_evaluation_whose_processes_are_all_killed_can_be_tried_later(sandbox: Sandbox) -> None:
    running = asyncio.create_task(sandbox.script(ENDLESS, b"{}"))
    killed: set[int] = set()
    for _ in range(2):
        await until(lambda: set(sandbox.pids) - killed)
        [pid] = sandbox.pids
        killed.add(pid)
        await until(lambda pid=pid: _is_at_work(pid))
        os.kill(pid, signal.SIGKILL)
    answer = await running
    assert answer == Answer(Verdict.UNAVAILABLE, message="the evaluator was ended from outside (SIGKILL)")
    assert (await sandbox.script("1", b"{}")).value == b"1"


def _is_at_work(pid: int) -> bool:
    limits = told(pid, "limits")
    return "Max cpu time" in limits and "Max cpu time              unlimited" not in limits


async def test_a_process_that_was_killed_while_idle_is_replaced(sandbox: Sandbox) -> None:
    pid = await ready(sandbox)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not is_alive(pid))
    assert (await sandbox.script("2", b"{}")).value == b"2"
    assert pid not in sandbox.pids


async def test_a_process_that_is_stopped_is_ended_and_replaced() -> None:
    """SIGALRM does not end what is stopped: the node has to."""
    sandbox = Sandbox(size=1, limits=Limits(time_ms=100))
    pid = await ready(sandbox)
    os.kill(pid, signal.SIGSTOP)
    assert (await sandbox.script("1", b"{}")).verdict is Verdict.TIME
    await until(lambda: not is_alive(pid))
    await sandbox.close()


@pytest.mark.parametrize("source", [ENDLESS, DEAF])
async def test_a_cancelled_evaluation_ends_its_process(sandbox: Sandbox, source: str) -> None:
    pid = await ready(sandbox)
    running = asyncio.create_task(sandbox.script(source, b"{}"))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not is_alive(pid))
    assert (await sandbox.script("1", b"{}")).value == b"1"


async def test_one_cancelled_while_it_waits_costs_nothing(sandbox: Sandbox) -> None:
    pid = await ready(sandbox)
    running = asyncio.create_task(sandbox.script(BUSY, b"{}"))
    waiting = asyncio.create_task(sandbox.script("1", b"{}"))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (await running).value == BUSY_RESULT
    assert (await sandbox.script("1", b"{}")).value == b"1"
    assert sandbox.pids == [pid]


async def test_one_cancelled_while_its_process_starts_leaves_none(sandbox: Sandbox) -> None:
    starting = asyncio.create_task(sandbox.script("1", b"{}"))
    await asyncio.sleep(0)
    [pid] = sandbox.pids
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await until(lambda: not is_alive(pid))
    assert (await sandbox.script("1", b"{}")).value == b"1"


async def test_nothing_is_left_after_close() -> None:
    sandbox = Sandbox(size=3, limits=LIMITS)
    await asyncio.gather(*(sandbox.script(BUSY, b"{}") for _ in range(2)))
    running = [asyncio.create_task(sandbox.script(ENDLESS, b"{}")) for _ in range(5)]
    await until(lambda: len(sandbox.pids) == 3)
    pids = sandbox.pids
    async with asyncio.timeout(DEADLINE_S):
        await sandbox.close()
    assert sandbox.pids == []
    assert not any(told(pid, "stat") for pid in pids), "not even unreaped"
    assert {(await one).verdict for one in running} == {Verdict.UNAVAILABLE}
    assert await sandbox.script("1", b"{}") == Answer(Verdict.UNAVAILABLE, message="the node is stopping")
    with pytest.raises(SandboxUnavailable):
        await sandbox.check_script("1")
    await sandbox.close()


PARENT = """
import asyncio, sys
from orchestrator.integrations.sandbox.protocol import Limits
from orchestrator.integrations.sandbox.sandbox import Sandbox

async def main() -> None:
    sandbox = Sandbox(size=2, limits=Limits(time_ms=600_000))
    running = asyncio.create_task(sandbox.script("[].sort.call({length: 1e12})", b"{}"))
    await sandbox.script("1", b"{}")
    print(*sandbox.pids, flush=True)
    await running

asyncio.run(main())
"""


async def test_they_die_with_the_node() -> None:
    """Also one that is in the middle of something, and however the node ended."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        pids = [int(pid) for pid in (await parent.stdout.readline()).split()]
    assert len(pids) == 2 and all(is_alive(pid) for pid in pids)
    parent.kill()
    await parent.wait()
    await until(lambda: not any(is_alive(pid) for pid in pids))


async def test_they_have_nothing_of_the_node(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCHESTRATOR_SECRET", "hunter2")
    pid = await ready(sandbox)
    environment = json.loads((await sandbox.query("env, $ENV", b"{}")).value)
    assert "ORCHESTRATOR_SECRET" not in environment[0] | environment[1]
    assert set(environment[0]) <= {"TZ", "LC_ALL", "LD_LIBRARY_PATH"}
    assert os.getsid(pid) == pid != os.getsid(0)
    held = descriptors(pid)
    assert set(held) == {"0", "1", "2", "3"}
    assert held["0"].startswith("socket:")
    assert held["1"] == held["2"] == os.devnull
    assert held["3"] == f"/proc/{pid}/statm"


async def test_they_can_open_nothing_and_are_bounded(sandbox: Sandbox) -> None:
    pid = await ready(sandbox)
    rows = told(pid, "limits").splitlines()[1:]
    limits = {row[:26].strip(): tuple(row[26:].split()[:2]) for row in rows}
    assert limits["Max open files"] == ("4", "4")
    assert limits["Max core file size"] == ("0", "0")
    assert limits["Max file size"] == ("0", "0")
    soft, hard = limits["Max address space"]
    assert soft == hard and int(soft) < 1024**3
    assert int(limits["Max cpu time"][0]) < 2 * LIMITS.time_ms / 1000
    status = told(pid, "status")
    assert "NoNewPrivs:\t1" in status
    for thread in Path(f"/proc/{pid}/task").iterdir():  # noqa: ASYNC240 - no disk is behind it
        assert "Seccomp:\t2" in told(pid, f"task/{thread.name}/status")


BURGLAR = """
import sys
sys.path[:] = sys.argv[1:]
import json, os, resource, signal, socket, subprocess, threading
from orchestrator.integrations.sandbox import evaluator, protocol

def attempts():
    node, own = os.getppid(), os.getpid()
    yield "signal the node", lambda: os.kill(node, 0)
    yield "signal itself", lambda: os.kill(own, 0)
    yield "fork", lambda: os._exit(0) if os.fork() == 0 else None
    yield "start a program", lambda: os.execv(sys.executable, [sys.executable, "-c", "1"])
    yield "start a thread", lambda: threading.Thread(target=int).start()
    yield "open", lambda: os.open("/etc/passwd", os.O_RDONLY)
    yield "remove", lambda: os.unlink({victim!r})
    yield "rename", lambda: os.rename({victim!r}, {victim!r} + "-")
    yield "change", lambda: os.chmod({victim!r}, 0)
    yield "list", lambda: os.listdir("/")
    yield "look", lambda: os.stat("/etc/passwd")
    yield "connect", lambda: socket.socket()
    yield "pipe", os.pipe
    yield "limit the node", lambda: resource.prlimit(node, resource.RLIMIT_NOFILE)
    yield "leave its session", os.setsid

class Burglar(evaluator.Evaluator):
    def answer(self, ask):
        if ask.request.source != "break out":
            return super().answer(ask)
        done = []
        for name, attempt in attempts():
            try:
                attempt()
                done.append(name)
            except (OSError, RuntimeError):
                pass
        return protocol.Answer(protocol.Verdict.VALUE, json.dumps(done).encode())

evaluator.Evaluator = Burglar
evaluator.main()
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="seccomp is there only")
async def test_an_engine_that_was_broken_into_can_do_nothing_but_compute(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    with monkeypatch.context() as broken:
        broken.setattr(process_module, "_PROGRAM", BURGLAR.format(victim=str(victim)))
        assert await sandbox.script("break out", b"{}") == Answer(Verdict.VALUE, b"[]")
        # The prepared one works otherwise: what it could not do is not for want of what the others have.
        assert (await sandbox.script("$.a", b'{"a":1}')).value == b"1"
    assert victim.exists()


async def test_they_give_way_to_the_node(sandbox: Sandbox) -> None:
    pid = await ready(sandbox)
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 5)
    assert told(pid, "autogroup") == "" or told(pid, "autogroup").endswith(" nice 5\n")


async def test_the_time_of_scripts_is_utc(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert (await sandbox.script("new Date(0).getHours()", b"{}")).value == b"0"
    assert (await sandbox.query("0 | localtime | .[3]", b"{}")).value == b"[0]"


async def test_what_cannot_be_started_is_told(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", "/nonexistent/python")
        answer = await sandbox.script("1", b"{}")
        assert answer.verdict is Verdict.UNAVAILABLE
        assert "/nonexistent/python" in answer.message
    assert (await sandbox.script("1", b"{}")).value == b"1"


WITHOUT_JQ = """
import sys
sys.path[:] = sys.argv[1:]
sys.modules["jq"] = None
from orchestrator.integrations.sandbox.evaluator import main
main()
"""


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("raise SystemExit(3)", "an evaluator process ended at its start, with status 3"),
        (WITHOUT_JQ,
         "an evaluator process can't work: ModuleNotFoundError: import of jq halted; None in sys.modules"),
        ("import os\nos.read(0, 4)\nos.write(0, bytes([255] * 8))\nos.read(0, 1 << 20)\nos.read(0, 1)",
         "an evaluator process can't be understood: a message of 4294967295 bytes"),
        ("import os\nos.read(0, 4)\nos.write(0, bytes([0, 0, 0, 1, 5]))\nos.read(0, 1 << 20)\nos.read(0, 1)",
         "an evaluator process can't be understood: Expected `object`, got `int`"),
    ],
)
async def test_what_does_not_come_up_is_told(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(process_module, "_PROGRAM", program)
        assert await sandbox.script("1", b"{}") == Answer(Verdict.UNAVAILABLE, message=message)
        assert sandbox.pids == []
    assert (await sandbox.script("1", b"{}")).value == b"1"


TRAITOR = """
import sys
sys.path[:] = sys.argv[1:]
from orchestrator.integrations.sandbox import evaluator, protocol

class Traitor(evaluator.Evaluator):
    def answer(self, ask):
        import os
        if ask.request.source != "betray":
            return super().answer(ask)
        os.write(0, {told!r})
        os.read(0, 1)

evaluator.Evaluator = Traitor
evaluator.main()
"""


@pytest.mark.parametrize("told", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01\x05", b"\x00\x00\x00\x03\x92\x91\xa3"])
async def test_an_evaluator_that_answers_nonsense_is_ended(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, told: bytes
) -> None:
    """An engine that was made to run foreign code can harm nothing but its own answer."""
    with monkeypatch.context() as broken:
        broken.setattr(process_module, "_PROGRAM", TRAITOR.format(told=told))
        assert await sandbox.script("betray", b"{}") == Answer(Verdict.CRASHED, message="it has broken its evaluator")
        assert sandbox.pids == []
    assert (await sandbox.script("1", b"{}")).value == b"1"


HOARDER = """
import sys
sys.path[:] = sys.argv[1:]
from orchestrator.integrations.sandbox import evaluator

class Hoarder(evaluator.Evaluator):
    def answer(self, ask):
        self.hoard = bytearray(40 << 20) if ask.request.source == "1" else None
        return super().answer(ask)

evaluator.Evaluator = Hoarder
evaluator.main()
"""


async def test_a_process_that_keeps_memory_is_replaced(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an evaluation can have must not depend on what ran before, nor on how large the node is."""
    monkeypatch.setattr(process_module, "_PROGRAM", HOARDER)
    assert (await sandbox.script("2", b"{}")).value == b"2"
    before = sandbox.pids
    assert len(before) == 1
    for _ in range(2):
        assert (await sandbox.script("1", b"{}")).value == b"1"
        assert sandbox.pids == []
    assert (await sandbox.script("2", b"{}")).value == b"2"
    assert len(sandbox.pids) == 1 and sandbox.pids != before


async def test_checks_say_what_is_wrong(sandbox: Sandbox) -> None:
    assert await sandbox.check_script("$.a") is None
    assert await sandbox.check_script("return $.a", body=True) is None
    assert (await sandbox.check_script("return $.a") or "").startswith("SyntaxError: return not in a function")
    assert await sandbox.check_jq(".a") is None
    assert (await sandbox.check_jq(".a |") or "").startswith("syntax error")
    assert await sandbox.check_schema('{"type": "object"}') is None
    assert (await sandbox.check_schema('{"type": "thing"}') or "").startswith("the schema is wrong: $.type")
    assert "limit" in (await sandbox.check_script(" " * (LIMITS.source_bytes + 1)) or "")


async def test_every_evaluation_is_observed() -> None:
    seen: list[tuple[AnyRequest, Verdict]] = []

    def observe(request: AnyRequest, answer: Answer, seconds: float) -> None:
        assert 0 <= seconds < DEADLINE_S
        seen.append((request, answer.verdict))

    sandbox = Sandbox(size=1, limits=LIMITS, observe=observe)
    await sandbox.script("1", b"{}")
    await sandbox.query("error", b"{}")
    await sandbox.close()
    await sandbox.validate("{}", b"{}")
    assert [(type(request).__name__, verdict) for request, verdict in seen] == [
        ("Script", Verdict.VALUE), ("Query", Verdict.ERROR), ("Validation", Verdict.UNAVAILABLE)]


def test_they_work_under_the_loop_of_a_node() -> None:
    async def main() -> list[bytes]:
        sandbox = Sandbox(size=2, limits=Limits(time_ms=300))
        try:
            answers = await asyncio.gather(*(sandbox.script("$.a", b'{"a":[%d]}' % number) for number in range(20)))
            assert (await sandbox.script(DEAF, b"{}")).verdict is Verdict.TIME
            return [answer.value for answer in answers]
        finally:
            await sandbox.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == [b"[%d]" % number for number in range(20)]
