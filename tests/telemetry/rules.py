"""Alerts, each with what makes it fire and what just does not: for promtool, on top of three nodes that are well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 1 << 30
DAY = 86_400
A = "job=orchestrator,instance=a,partition=0"
# Three nodes, of which a leads. x1500 is as long as it takes.
WELL = {
    **{f"up{{job=orchestrator,instance={name}}}": "1+0x1500" for name in "abc"},
    **{f"orchestrator_is_leader{{job=orchestrator,instance={name},partition=0}}": f"{int(name == 'a')}+0x1500"
       for name in "abc"},
}


@dataclass(frozen=True)
class Case:
    """`fires` after so many minutes; with `quiet` in its place, nothing does. Both replace series of `WELL`."""

    alert: str
    fires: dict[str, str]
    quiet: dict[str, str]
    minutes: int = 30
    count: int = 1  # how many of the alert


def histogram(name: str, le: str, labels: str = A) -> dict[str, str]:
    """One in twenty observations is slower than `le`, by less than the next bound."""
    bounds = ["0.1", "0.25", "0.5", "1", "+Inf"]
    slow_from = bounds.index(le)
    return {
        f"{name}_bucket{{{labels},le={bound}}}": f"0+{600 if at > slow_from else 570}x1500"
        for at, bound in enumerate(bounds)
    }


def level(name: str, fires: float, quiet: float, labels: str = A) -> tuple[dict[str, str], dict[str, str]]:
    series = f"{name}{{{labels}}}"
    return {series: f"{fires}+0x1500"}, {series: f"{quiet}+0x1500"}


CASES = (
    Case("OrchestratorNoLeader", {f"orchestrator_is_leader{{{A}}}": "0+0x1500"}, {}),
    Case("OrchestratorNodeDown", {"up{job=orchestrator,instance=c}": "0+0x1500"},
         {"up{job=orchestrator,instance=c}": "1+0x28 0 1+0x1500"}),
    Case("OrchestratorNoFaultTolerance",
         {f"orchestrator_peers_connected{{{A}}}": "1+0x1500", f"orchestrator_voters{{{A}}}": "3+0x1500"},
         {f"orchestrator_peers_connected{{{A}}}": "3+0x1500", f"orchestrator_voters{{{A}}}": "5+0x1500"}),
    Case("OrchestratorLeaderChanges", {f"orchestrator_leader_changes_total{{{A}}}": "0+1x1500"},
         {f"orchestrator_leader_changes_total{{{A}}}": "0 0 0 1 2 3+0x1500"}),
    Case("OrchestratorClockSkew", *level("orchestrator_clock_skew_seconds", -0.8, -0.4)),
    Case("OrchestratorVersionsDiffer",
         {f"orchestrator_build_info{{job=orchestrator,instance={name},version={version}}}": "1+0x1500"
          for name, version in (("a", "1"), ("b", "2"))},
         {f"orchestrator_build_info{{job=orchestrator,instance={name},version=1}}": "1+0x1500" for name in "ab"}, 370),
    Case("OrchestratorCommitsSlow", histogram("orchestrator_commit_seconds", "0.5"),
         histogram("orchestrator_commit_seconds", "0.1")),
    Case("OrchestratorDiskSlow", histogram("orchestrator_fsync_seconds", "0.25"),
         histogram("orchestrator_fsync_seconds", "0.1")),
    Case("OrchestratorEventLoopBusy", histogram("orchestrator_event_loop_lag_seconds", "0.25"),
         histogram("orchestrator_event_loop_lag_seconds", "0.1")),
    Case("OrchestratorTimersLate", *level("orchestrator_timer_delay_seconds", 9, 3)),
    Case("OrchestratorCallsFail",
         {"orchestrator_grpc_calls_total{job=orchestrator,instance=a,method=S/M,code=INTERNAL}": "0+3x1500"},
         {"orchestrator_grpc_calls_total{job=orchestrator,instance=a,method=S/M,code=UNAVAILABLE}": "0+3x1500"}),
    Case("OrchestratorFollowerBehind", *level("orchestrator_follower_lag_entries", 20_000, 500, f"{A},peer=b")),
    Case("OrchestratorApplyBehind",
         {f"orchestrator_commit_index{{{A}}}": "5000+0x1500", f"orchestrator_applied_index{{{A}}}": "3000+0x1500"},
         {f"orchestrator_commit_index{{{A}}}": "5000+0x1500", f"orchestrator_applied_index{{{A}}}": "4999+0x1500"}),
    Case("OrchestratorFlushBehind", *level("orchestrator_dirty_bytes", 200 << 20, 64 << 20)),
    Case("OrchestratorScrubOld", *level("orchestrator_last_scrub_timestamp_seconds", -3 * DAY, -DAY), 90),
    Case("OrchestratorDiskFull",
         {"orchestrator_disk_free_bytes{job=orchestrator,instance=a}": f"{1.5 * GIB:.0f}+0x1500",
          "orchestrator_disk_free_limit_bytes{job=orchestrator,instance=a}": f"{GIB}+0x1500"},
         {"orchestrator_disk_free_bytes{job=orchestrator,instance=a}": f"{3 * GIB}+0x1500",
          "orchestrator_disk_free_limit_bytes{job=orchestrator,instance=a}": f"{GIB}+0x1500"}),
    Case("OrchestratorDiskFullSoon",
         {"orchestrator_disk_free_bytes{job=orchestrator,instance=a}": f"{40 * GIB}-{GIB // 30}x1500",
          "orchestrator_disk_free_limit_bytes{job=orchestrator,instance=a}": f"{GIB}+0x1500"},
         {"orchestrator_disk_free_bytes{job=orchestrator,instance=a}": f"{400 * GIB}-{GIB // 30}x1500",
          "orchestrator_disk_free_limit_bytes{job=orchestrator,instance=a}": f"{GIB}+0x1500"}, 420),
    Case("OrchestratorStartsRefused",
         {"orchestrator_refused_starts_total{job=orchestrator,instance=a,reason=free_disk}": "0+60x1500"},
         {"orchestrator_refused_starts_total{job=orchestrator,instance=a,reason=free_disk}": "60+0x1500"}),
    Case("OrchestratorOverloaded",
         {"orchestrator_refused_starts_total{job=orchestrator,instance=a,reason=starts_under_way}": "0+60x1500"},
         {"orchestrator_refused_starts_total{job=orchestrator,instance=a,reason=starts_under_way}": "0 0 0 60+0x1500"}),
    Case("OrchestratorEventsPile", *level("orchestrator_pending_events", 2_000, 900)),
    Case("OrchestratorTasksNotTaken", *level("orchestrator_oldest_queued_task_age_seconds", 900, 300,
                                             f"{A},workflow_namespace=default,domain=,task=pay")),
    Case("OrchestratorWorkersLost", {f"orchestrator_sessions_lost_total{{{A}}}": "0+1x1500"},
         {f"orchestrator_sessions_lost_total{{{A}}}": "0+0.5x1500"}),
    Case("OrchestratorTasksTimeOut",
         {f"orchestrator_task_timeouts_total{{{A},task=pay,reason=TASK_TIMEOUT}}": "0+2x1500",
          f"orchestrator_task_attempts_ended_total{{{A},task=pay,status=TIMED_OUT}}": "0+10x1500"},
         {f"orchestrator_task_timeouts_total{{{A},task=pay,reason=TASK_TIMEOUT}}": "0+2x1500",
          f"orchestrator_task_attempts_ended_total{{{A},task=pay,status=COMPLETED}}": "0+100x1500"}, 40),
    Case("OrchestratorWorkflowsFail",
         {f"orchestrator_workflows_ended_total{{{A},workflow=order,status=FAILED}}": "0+3x1500",
          f"orchestrator_workflows_ended_total{{{A},workflow=order,status=COMPLETED}}": "0+7x1500"},
         {f"orchestrator_workflows_ended_total{{{A},workflow=order,status=FAILED}}": "0+1x1500",
          f"orchestrator_workflows_ended_total{{{A},workflow=order,status=COMPLETED}}": "0+9x1500"}, 40),
    Case("OrchestratorCompensationStuck", *level("orchestrator_stuck_compensations", 2, 0)),
    Case("OrchestratorRedisUnreachable", *level("orchestrator_redis_connected", 0, 1)),
    Case("OrchestratorEventsUnpublished",
         *level("orchestrator_outbox_oldest_age_seconds", 700, 500, f"{A},stream=orders")),
    Case("OrchestratorStreamBehind",
         *level("orchestrator_stream_lag_entries", 20_000, 9_000, f"{A},workflow_namespace=default,stream=paid")),
    Case("OrchestratorDeadLetters",
         {f"orchestrator_events_dead_lettered_total{{{A},workflow_namespace=default,stream=paid}}": "0+1x1500"},
         {f"orchestrator_events_dead_lettered_total{{{A},workflow_namespace=default,stream=paid}}": "5+0x1500"}),
    Case("OrchestratorLargePayloadsFail",
         {f"orchestrator_blob_failures_total{{{A},failure=StoreUnavailable}}": "0+1x1500"},
         {f"orchestrator_blob_failures_total{{{A},failure=StoreUnavailable}}": "5+0x1500"}),
    Case("OrchestratorCertificateEnds",
         *level("orchestrator_certificate_expiry_seconds", 10 * DAY, 20 * DAY, "job=orchestrator,instance=a"), 90),
    Case("OrchestratorFileRefused",
         {"orchestrator_access_reloads_total{job=orchestrator,instance=a,outcome=refused}": "0+0x25 1+0x1500"},
         {"orchestrator_certificate_reloads_total{job=orchestrator,instance=a,outcome=taken}": "0+1x1500"}),
    Case("OrchestratorAuditLogUnwritable",
         *level("orchestrator_audit_unwritten_lines", 3, 0, "job=orchestrator,instance=a")),
    Case("OrchestratorSecretsUnreadable", *level("orchestrator_unreadable_secrets", 3, 0)),
    Case("OrchestratorBackupOld", *level("orchestrator_last_backup_timestamp_seconds", -26 * 3_600, 0), 60),
)


def promtool_tests(rule_file: str) -> dict[str, Any]:
    """Each case twice; what fires is all that fires."""
    tests = []
    for case in CASES:
        for series, fires in ((case.fires, True), (case.quiet, False)):
            samples = [{"labels": f'{{alertname="{case.alert}"}}', "value": case.count}] if fires else []
            tests.append({
                "name": f"{case.alert} {'fires' if fires else 'is quiet'}",
                "interval": "1m",
                "input_series": [
                    {"series": _quoted(name), "values": values.replace("x1500", f"x{case.minutes + 5}")}
                    for name, values in {**WELL, **series}.items()
                ],
                "promql_expr_test": [{
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": f"{case.minutes}m",
                    "exp_samples": samples,
                }],
            })
    return {"rule_files": [rule_file], "evaluation_interval": "1m", "tests": tests}


def _quoted(series: str) -> str:
    name, _, labels = series.rstrip("}").partition("{")
    pairs = [label.partition("=") for label in labels.split(",")]
    quoted = ",".join(f'{key}="{value}"' for key, _, value in pairs)
    return f"{name}{{{quoted}}}"
