"""What Prometheus reads, and that nobody can hurt the node by asking."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from orchestrator.telemetry.families import SERIES_MAX, largest
from orchestrator.telemetry.metrics import Metrics
from tests.telemetry.prometheus import Promtool


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(node="a", version="0.1.0")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(port: int, request: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer.decode()


def test_what_a_partition_has_names_it_and_who_the_node_is_is_left_to_the_scraper(metrics: Metrics) -> None:
    metrics.refused_starts.labels("queue").inc()
    metrics.transport_drops.labels("full").inc()
    text = metrics.page()[0].decode()
    assert 'orchestrator_refused_starts_total{reason="queue"} 1.0' in text
    assert 'orchestrator_transport_dropped_messages_total{partition="0",reason="full"} 1.0' in text
    assert [line for line in text.splitlines() if "node=" in line] == [
        'orchestrator_build_info{node="a",version="0.1.0"} 1.0']


def test_every_metric_is_explained_and_says_its_unit(metrics: Metrics) -> None:
    for family in metrics.registry.collect():
        assert family.documentation.endswith(".")
        if family.type in ("histogram", "summary"):
            assert family.name.endswith(("_seconds", "_commands", "_bytes"))


def test_promtool_finds_nothing_to_complain_about(metrics: Metrics, promtool: Promtool) -> None:
    metrics.grpc_calls.inc("WorkflowService/StartWorkflow", "OK")
    metrics.grpc_call_seconds.of("WorkflowService/StartWorkflow")(0.2)
    metrics.task_attempts_ended.inc("pay", "COMPLETED")
    metrics.task_wait_seconds.observe(0.2, "pay")
    metrics.follower_lag_entries.put({("b",): 3})
    metrics.paused_workflows.put_one(1)
    promtool("check", "metrics", given=metrics.page()[0])
    with pytest.raises(AssertionError, match="counter metrics should have"):
        promtool("check", "metrics", given=b"# HELP a_thing A thing.\n# TYPE a_thing counter\na_thing 1\n")


def test_names_that_users_give_are_bounded(metrics: Metrics) -> None:
    for number in range(SERIES_MAX + 5):
        metrics.task_timeouts.inc(f"t{number}", "POLL_TIMEOUT")
        metrics.task_execution_seconds.observe(2.0, f"t{number}")
    metrics.task_timeouts.inc("t0", "WORKER_LOST")
    text = metrics.page()[0].decode()
    assert text.count("orchestrator_task_timeouts_total{") == SERIES_MAX + 2
    assert 'orchestrator_task_timeouts_total{partition="0",reason="POLL_TIMEOUT",task="other"} 5.0' in text
    assert 'orchestrator_task_timeouts_total{partition="0",reason="WORKER_LOST",task="t0"} 1.0' in text
    assert 'orchestrator_task_execution_seconds_sum{partition="0",task="other"} 10.0' in text


def test_the_largest_readings_have_series_of_their_own() -> None:
    values = {(f"t{number}",): float(number) for number in range(SERIES_MAX + 3)}
    found = largest(values, lambda one, other: one + other)
    assert found["other",] == 0 + 1 + 2 and found["t3",] == 3 and ("t2",) not in found
    assert largest(values, max)["other",] == 2


def test_readings_that_are_over_have_no_series(metrics: Metrics) -> None:
    metrics.follower_lag_entries.put({("b",): 3, ("c",): 4})
    metrics.follower_lag_entries.put({("b",): 5})
    text = metrics.page()[0].decode()
    assert 'peer="c"' not in text and 'orchestrator_follower_lag_entries{partition="0",peer="b"} 5.0' in text


def test_what_is_observed_is_counted_up_to_each_bound(metrics: Metrics) -> None:
    for commands in (1, 2, 3, 1_000, 2_000):
        metrics.entry_commands.observe(commands)
    lines = metrics.page()[0].decode().splitlines()
    counted = {}
    for line in lines:
        if line.startswith("orchestrator_entry_commands_bucket"):
            counted[line.partition('le="')[2].partition('"')[0]] = line.rpartition(" ")[2]
    assert (counted["1.0"], counted["2.0"], counted["5.0"], counted["1000.0"], counted["+Inf"]) == tuple(
        f"{count}.0" for count in (1, 2, 3, 4, 5))
    assert 'orchestrator_entry_commands_count{partition="0"} 5.0' in lines
    assert 'orchestrator_entry_commands_sum{partition="0"} 3006.0' in lines


def test_two_nodes_in_one_process_do_not_share_their_numbers(metrics: Metrics) -> None:
    other = Metrics(node="b", version="0.1.0")
    metrics.commit_index.set(7)
    assert 'orchestrator_commit_index{partition="0"} 0.0' in other.page()[0].decode()


def test_the_role_is_one_of_the_known(metrics: Metrics) -> None:
    metrics.role.state("leader")
    assert 'orchestrator_role{orchestrator_role="leader",partition="0"} 1.0' in metrics.page()[0].decode()


async def test_the_page_is_served_until_it_is_stopped(metrics: Metrics) -> None:
    port = free_port()
    server = await metrics.serve("127.0.0.1", port)
    metrics.commit_index.set_function(lambda: 42)
    answer = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=")
    assert 'orchestrator_commit_index{partition="0"} 42.0' in answer
    await server.stop()
    with pytest.raises(OSError):
        await ask(port, b"")


@pytest.mark.parametrize(("request_bytes", "answer"), [
    (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404"),
    (b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405"),
    (b"\r\n\r\n", "HTTP/1.1 405"),
    (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", ""),
])
async def test_strangers_get_an_answer_or_are_cut_off(metrics: Metrics, request_bytes: bytes, answer: str) -> None:
    port = free_port()
    server = await metrics.serve("127.0.0.1", port)
    try:
        got = await ask(port, request_bytes)
    except ConnectionResetError:
        got = ""
    assert got.startswith(answer) and bool(got) == bool(answer)
    await server.stop()


async def test_probes_ask_whether_it_is_alive_and_whether_it_is_in_service(metrics: Metrics) -> None:
    port = free_port()
    server = await metrics.serve("127.0.0.1", port)
    assert (await ask(port, b"GET /livez HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 200")
    assert (await ask(port, b"GET /readyz HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 503")
    metrics.is_ready = lambda: True
    assert (await ask(port, b"GET /readyz?verbose HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 200")
    assert (await ask(port, b"HEAD /readyz HTTP/1.1\r\n\r\n")).endswith("\r\n\r\n")
    await server.stop()


async def test_open_metrics_is_spoken_to_who_asks_for_it(metrics: Metrics) -> None:
    port = free_port()
    server = await metrics.serve("127.0.0.1", port)
    answer = await ask(port, b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\n\r\n")
    assert "Content-Type: application/openmetrics-text" in answer and answer.rstrip().endswith("# EOF")
    await server.stop()


async def test_a_blocked_event_loop_shows(metrics: Metrics) -> None:
    watch = asyncio.create_task(metrics.measure_event_loop())
    await asyncio.sleep(0)
    time.sleep(0.2)  # noqa: ASYNC251 - the very thing that is measured
    await asyncio.sleep(0.01)
    watch.cancel()
    samples = {sample.name: sample.value for family in metrics.registry.collect() for sample in family.samples}
    assert samples["orchestrator_event_loop_lag_seconds_sum"] > 0.05
