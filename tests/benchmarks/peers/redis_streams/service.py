"""One service, a process of its own: `service.py PORT SOURCE TARGET` does its step for what is in SOURCE.

What it has done is in TARGET before it is acknowledged in SOURCE, so nothing is lost when it dies, though some of it
may be done twice. A read takes all that is there in one round trip, and all the writing that follows takes another.
"""

from __future__ import annotations

import contextlib
import json
import sys

import redis

GROUP = "service"
BATCH = 256
BLOCK_MS = 1_000
# Streams are cut to about this length: more than there ever is under way.
LENGTH = 10_000


def step(body: bytes) -> str:
    """The work: nothing, but with the parcel decoded and encoded again, as services must."""
    return json.dumps(json.loads(body))


def serve(port: int, source: str, target: str) -> None:
    connection = redis.Redis(host="127.0.0.1", port=port)
    with contextlib.suppress(redis.ResponseError):  # it is there already
        connection.xgroup_create(source, GROUP, id="0", mkstream=True)
    print("connected", flush=True)
    while True:
        for _, entries in connection.xreadgroup(GROUP, "only", {source: ">"}, count=BATCH, block=BLOCK_MS) or ():
            pipeline = connection.pipeline(transaction=False)
            for _, fields in entries:
                done = {"id": fields[b"id"], "body": step(fields[b"body"])}
                pipeline.xadd(target, done, maxlen=LENGTH, approximate=True)
            pipeline.xack(source, GROUP, *(number for number, _ in entries))
            pipeline.execute()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3])
