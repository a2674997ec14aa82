"""All rows, by the names that the command line has for them, in the order in which they are measured."""

from __future__ import annotations

from tests.benchmarks.commits import measure_commit
from tests.benchmarks.failover import measure_failover, measure_handover, measure_partition, measure_silence
from tests.benchmarks.fanout import measure_fan_out_1000
from tests.benchmarks.follower import measure_follower
from tests.benchmarks.large import measure_fan_out, measure_loop
from tests.benchmarks.overload import measure_overload, measure_overload_full
from tests.benchmarks.processes import Measure
from tests.benchmarks.reads import measure_barrier, measure_reads
from tests.benchmarks.restart import measure_restart
from tests.benchmarks.soak import measure_soak
from tests.benchmarks.stalls import measure_stalls
from tests.benchmarks.throughput import (
    measure_execute,
    measure_start,
    measure_w1,
    measure_w3,
    on_slow_disks,
    over_distance,
)
from tests.benchmarks.waiting import measure_waiting

ROWS: dict[str, Measure] = {
    "commit": measure_commit,
    "start": measure_start,
    "w3": measure_w3,
    "w3-fsync-1ms": on_slow_disks(1),
    "w3-fsync-5ms": on_slow_disks(5),
    "w3-rtt-1ms": over_distance(1),
    "w3-rtt-10ms": over_distance(10),
    "w1": measure_w1,
    "execute": measure_execute,
    "fanout-1000": measure_fan_out_1000,
    "read": measure_reads,
    "failover": measure_failover,
    "silence": measure_silence,
    "partition": measure_partition,
    "handover": measure_handover,
    "stalls": measure_stalls,
    "fanout-10000": measure_fan_out,
    "loop-10000": measure_loop,
    "follower": measure_follower,
    "overload": measure_overload,
    "overload-full": measure_overload_full,
    "soak": measure_soak,
    "waiting": measure_waiting,
    "restart": measure_restart,
    "barrier": measure_barrier,
}
# Needs network namespaces, and so to be asked for.
PRIVATE = "partition"
# Measured with another row in any case.
PART = "commit"
