"""The smallest workflow: one task, its worker and its caller in one program.

    python client/examples/hello.py localhost:7400
"""

from __future__ import annotations

import asyncio
import os
import sys

from orchestrator_client import TLS, Client, Worker, Workflow, task


@task
async def greet(name: str) -> str:
    return f"Hello, {name}!"


hello = Workflow("hello", version=1)
hello.returns(greeting=hello.step(greet, hello.input.name))


async def main(endpoints: str) -> None:
    shown = os.environ.get("ORCHESTRATOR_TOKEN_FILE")
    async with Client(endpoints, tls=TLS.from_environment(), token_file=shown) as client:
        worker = Worker(client, tasks=[greet])
        working = asyncio.create_task(worker.run())
        run = await client.start(hello, {"name": "world"})
        print((await run.result(timeout_s=30)).greeting)
        await worker.stop()
        await working


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:7400"))
