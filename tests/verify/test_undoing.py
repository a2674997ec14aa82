"""What is to be undone stands in a file before the fault is made, and is undone also after the worst."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import stat
from pathlib import Path

import pytest

from orchestrator.verify import commands
from orchestrator.verify.commands import CommandFailed, CommandFaults, Target, undo_all
from orchestrator.verify.undoing import Record, RecordUnusable, read
from tests.cluster.workload import eventually

NODES = [Target("a", "a.example:7400"), Target("b", "10.0.0.2:7400"), Target("c", "[::1]:7400")]


async def targets() -> list[Target]:
    return NODES


@pytest.fixture
def record(tmp_path: Path) -> Record:
    made = Record(tmp_path / "run.undo")
    made.begin(prefix="verify-1", cluster_id="c", addresses=["a:7400"], namespace="default")
    return made


def faults(record: Record, log: Path, **more: str) -> CommandFaults:
    """Operator's commands that write into a file."""
    given = {"kill": f"echo kill {{node}} >> {log}"} | more
    undos = {kind: f"echo undo-{kind} {{node}} {{host}} >> {log}" for kind in given}
    return CommandFaults(given, undos, record, targets, timeout_s=20)


# -- the record --------------------------------------------------------------------------------------------------------

def test_the_record_says_what_is_left(record: Record) -> None:
    first, second, third = (record.will_undo(f"undo {number}") for number in range(3))
    record.undone(second)
    left = read(record.file)
    assert left.run["prefix"] == "verify-1" and left.made
    assert list(left.commands.items()) == [(third, "undo 2"), (first, "undo 0")]
    record.removed()
    assert not read(record.file).made
    assert stat.S_IMODE(record.file.stat().st_mode) == 0o600
    record.discard()
    assert not record.file.exists()


def test_a_line_that_was_cut_off_was_not_begun(record: Record) -> None:
    record.will_undo("undo 0")
    with record.file.open("ab") as file:
        file.write(b'{"undo": 2, "comm')
    assert list(read(record.file).commands) == [1]


def test_a_record_is_never_overwritten(record: Record) -> None:
    with pytest.raises(FileExistsError):
        Record(record.file).begin(prefix="verify-2")


@pytest.mark.parametrize("text", ["", "no JSON\n", "[]\n", '{"other": 1}\n'])
def test_another_file_is_no_record(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other"
    file.write_text(text)
    with pytest.raises(RecordUnusable):
        read(file)
    with pytest.raises(RecordUnusable, match="can't be read"):
        read(tmp_path / "missing")


# -- commands ----------------------------------------------------------------------------------------------------------

def test_the_node_is_quoted() -> None:
    assert NODES[0].fill("ssh {host} stop {node} at {address}") == "ssh a.example stop a at a.example:7400"
    assert NODES[2].fill("ping {host}") == "ping ::1"
    assert Target("x; rm -rf /", "h:1").fill("stop {node}") == "stop 'x; rm -rf /'"


async def test_each_fault_is_undone_newest_first(record: Record, tmp_path: Path) -> None:
    log = tmp_path / "log"
    made = faults(record, log, cut=f"echo cut {{node}} >> {log}")
    dice = random.Random(3)
    hit = [await made.strike(kind, dice) for kind in ("kill", "cut")]
    assert len(read(record.file).commands) == 2
    await made.heal()
    lines = log.read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [["kill", hit[0]], ["cut", hit[1]], ["undo-cut", hit[1]],
                                                    ["undo-kill", hit[0]]]
    assert read(record.file).commands == {}
    await made.heal()
    assert log.read_text().splitlines() == lines


async def test_leader_and_others_are_hit(record: Record, tmp_path: Path) -> None:
    made = faults(record, tmp_path / "log")
    hit = {await made.strike("kill", random.Random(seed)) for seed in range(20)}
    assert hit == {"a", "b", "c"}


async def test_the_undoing_is_on_the_disk_before_the_fault(record: Record, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    made = faults(record, tmp_path / "log", slow=f"cp {record.file} {seen}")
    await made.strike("slow", random.Random(1))
    assert any("undo-slow" in json.loads(line).get("command", "") for line in seen.read_text().splitlines())


async def test_a_fault_whose_command_fails_is_undone_all_the_same(record: Record, tmp_path: Path) -> None:
    made = faults(record, log := tmp_path / "log", broken="echo no way; exit 3")
    with pytest.raises(CommandFailed, match="exit code 3: no way"):
        await made.strike("broken", random.Random(1))
    await made.heal()
    assert log.read_text().startswith("undo-broken")


async def test_what_can_not_be_undone_stays_in_the_record_the_rest_is_undone(record: Record, tmp_path: Path) -> None:
    left = {record.will_undo(command): command for command in ("exit 1", f"touch {tmp_path / 'x'}")}
    [failed] = await undo_all(left, record)
    assert "exit code 1" in failed and (tmp_path / "x").exists()
    assert list(left) == [1] and list(read(record.file).commands) == [1]


async def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    began = tmp_path / "began"
    with pytest.raises(CommandFailed, match="did not end in 0 s"):
        await commands.run(f"echo $$ > {began}; sleep 600 & wait", 0.3)
    group = int(began.read_text())
    await eventually(lambda: not alive(group), "the shell and what it had started to be gone")


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


async def test_who_is_interrupted_undoes_after_the_fault_has_been_made(record: Record, tmp_path: Path) -> None:
    log, began, go_on = tmp_path / "log", tmp_path / "began", tmp_path / "go-on"
    os.mkfifo(go_on)
    made = faults(record, log, slow=f"touch {began}; cat {go_on}; echo slow >> {log}")
    striking = asyncio.create_task(made.strike("slow", random.Random(1)))
    await eventually(began.exists, "the fault to begin")
    striking.cancel()
    await asyncio.gather(striking, return_exceptions=True)
    healing = asyncio.create_task(made.heal())
    await asyncio.to_thread(go_on.write_text, "now")
    await healing
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["slow", "undo-slow"]


async def test_ctrl_c_in_the_terminal_does_not_reach_commands(tmp_path: Path) -> None:
    """It goes to the group of processes in the foreground, and they are in another one."""
    told = tmp_path / "told"
    await commands.run(f"ps -o pgid= -p $$ > {told} || echo $$ > {told}")
    assert int(told.read_text()) != os.getpgrp()
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
