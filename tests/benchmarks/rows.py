"""All rows, by the names that the command line has for them, in the order in which they are measured."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tests.benchmarks.failover import measure_failover, measure_handover, measure_partition, measure_silence
from tests.benchmarks.large import measure_fan_out, measure_loop
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.processes import Options, Progress
from tests.benchmarks.reads import measure_barrier
from tests.benchmarks.restart import measure_restart
from tests.benchmarks.stalls import measure_stalls
from tests.benchmarks.throughput import measure_start, measure_w3

Measure = Callable[[Options, Progress], Awaitable[list[Measurement]]]

ROWS: dict[str, Measure] = {
    "start": measure_start,
    "w3": measure_w3,
    "failover": measure_failover,
    "silence": measure_silence,
    "partition": measure_partition,
    "handover": measure_handover,
    "stalls": measure_stalls,
    "fanout-10000": measure_fan_out,
    "loop-10000": measure_loop,
    "restart": measure_restart,
    "barrier": measure_barrier,
}
# Needs network namespaces, and so to be asked for.
PRIVATE = "partition"
