"""Services crash as planned and are back at once; any other end of a service ends the demo; none is left behind."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import pytest
import supervisor
from clock import Stopwatch
from order_file import OrderLine, write_orders
from scoreboard import Scoreboard
from services import CRASH_EXIT_CODE
from supervisor import ServiceBroken, Supervisor

SERVICE_SCRIPT = supervisor.SERVICE_SCRIPT
NOWHERE = "127.0.0.1:1"


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard(orders=1, seed=1)


def use_script(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """A service that runs this, with its name as `name`, until its input ends."""
    script = folder / "stand_in.py"
    script.write_text(
        "import pathlib, sys\n"
        "name, folder = sys.argv[1], pathlib.Path(sys.argv[2])\n"
        f"{body}\n"
        "sys.stdin.read()\n"
    )
    monkeypatch.setattr(supervisor, "SERVICE_SCRIPT", script)


async def test_a_planned_crash_is_followed_by_a_new_start(
    tmp_path: Path, board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash_once = (
        "mark = folder / 'crashed'\n"
        "if name == 'payment' and not mark.exists():\n"
        f"    mark.touch(); sys.exit({CRASH_EXIT_CODE})"
    )
    use_script(monkeypatch, tmp_path, crash_once)
    told = asyncio.Event()
    board.listener = lambda at_s, what: told.set()
    async with Supervisor(tmp_path, [NOWHERE], board, Stopwatch()) as services:
        watch = asyncio.create_task(services.watch())
        async with asyncio.timeout(20):
            await told.wait()
        assert services.crashes == 1
        processes = list(services._processes.values())
        assert len(processes) == 3
        watch.cancel()
    assert board.events[0][1].startswith("payment crashed")
    assert all(process.returncode is not None for process in processes)


async def test_any_other_end_is_an_error_with_the_last_words(
    tmp_path: Path, board: Scoreboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_script(monkeypatch, tmp_path, "if name == 'shipping': sys.exit('no more trucks')")
    with pytest.raises(ExceptionGroup) as failed:
        async with Supervisor(tmp_path, [NOWHERE], board, Stopwatch()) as services, asyncio.timeout(20):
            await services.watch()
    (error,) = failed.value.exceptions
    assert isinstance(error, ServiceBroken)
    assert "the shipping service ended with exit code 1" in str(error)
    assert "no more trucks" in str(error)


def test_a_service_ends_with_whoever_started_it(tmp_path: Path) -> None:
    write_orders(tmp_path / "orders.jsonl", [OrderLine("0001", "mug-blue", 1, 740)])
    command = [sys.executable, str(SERVICE_SCRIPT), "payment", str(tmp_path), NOWHERE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as service:
        deadline = time.monotonic() + 20
        while not (tmp_path / "payment.jsonl").exists() and time.monotonic() < deadline:
            assert service.poll() is None
            time.sleep(0.02)
        assert service.stdin is not None
        service.stdin.close()
        assert service.wait(10) == 0
