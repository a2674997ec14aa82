"""The tasks, as a user would write them. Runs where Celery is installed; REDIS_PORT says where Redis is.

A task is acknowledged when it is done, so nothing is lost with a worker. Only the chain's own result is stored.
"""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

from tests.benchmarks.peers.celery_chain import CONNECTED

Parcel = dict[str, Any]

_REDIS = f"redis://127.0.0.1:{os.environ['REDIS_PORT']}"

app = Celery("bench", broker=f"{_REDIS}/0", backend=f"{_REDIS}/1")
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=16,
    worker_redirect_stdouts=False,
    broker_connection_retry_on_startup=True,
)


@app.task(ignore_result=True)
def first(parcel: Parcel) -> Parcel:
    return parcel


@app.task(ignore_result=True)
def second(parcel: Parcel) -> Parcel:
    return parcel


@app.task
def third(parcel: Parcel) -> Parcel:
    return parcel


@signals.worker_ready.connect
def _say_so(**_: Any) -> None:
    print(CONNECTED, flush=True)
