"""Starts chains and waits for their results, a process of its own: `client.py PORT THREADS`."""

from __future__ import annotations

import sys
from typing import Any

from celery import chain

from tests.benchmarks.peers.celery_chain.tasks import Parcel, first, second, third
from tests.benchmarks.peers.line_server import serve

RESULT_S = 60


def w3(parcel: Parcel) -> Any:
    return chain(first.s(parcel), second.s(), third.s()).apply_async().get(timeout=RESULT_S)


if __name__ == "__main__":
    serve(int(sys.argv[1]), w3, int(sys.argv[2]))
