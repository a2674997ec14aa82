"""The application, as a user would write it, a process of its own: `app.py PORT DATABASE_URL THREADS`.

Runs where DBOS is installed. A step's result is committed before the next step begins.
"""

from __future__ import annotations

import sys
from typing import Any

from dbos import DBOS

from tests.benchmarks.peers.line_server import serve

Parcel = dict[str, Any]


@DBOS.step()
def first(parcel: Parcel) -> Parcel:
    return parcel


@DBOS.step()
def second(parcel: Parcel) -> Parcel:
    return parcel


@DBOS.step()
def third(parcel: Parcel) -> Parcel:
    return parcel


@DBOS.workflow()
def w3(parcel: Parcel) -> Parcel:
    return third(second(first(parcel)))


if __name__ == "__main__":
    port, url, threads = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    # Each thread has a connection, and what DBOS does beside them has some, too.
    DBOS(config={"name": "bench", "system_database_url": url, "sys_db_pool_size": threads + 4, "log_level": "WARNING"})
    DBOS.launch()
    serve(port, w3, threads)
