"""A node has an executor for every kind of system work, made of its settings."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config import Config
from orchestrator.integrations.executors import Surroundings, executors_of
from orchestrator.integrations.work import Ended, Kind
from tests.integrations.works import Clock, Services, work


async def test_every_kind_of_work_is_executed(tmp_path: Path) -> None:
    config = Config(node="n1", data_dir=tmp_path, sandbox_processes_max=1)
    executors = executors_of(config, Surroundings(monotonic=Clock(), service=Services()))
    assert set(executors) == set(Kind)
    scripts = [work(kind, {"a": 1}, parameters=b'{"expression":"1 + 1"}') for kind in (Kind.SCRIPT, Kind.JQ)]
    checks = work(Kind.SCHEMA, {"a": 1}, parameters=b'{"schema":{"required":["a"]}}')
    outcomes = [await executors[one.kind].execute(one) for one in (*scripts, checks)]
    assert [outcome.output for outcome in outcomes] == [b'{"result":2}', b'{"result":2,"resultList":[2]}', b"{}"]
    for executor in executors.values():
        await executor.close()
    assert (await executors[Kind.SCRIPT].execute(scripts[0])).ended is Ended.FAILED
