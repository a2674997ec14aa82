"""Workers that make one mistake, named in MISTAKE: they show that it is found.

`invent`: each attempt is reported a second time under another id. `careless`: every fifth compensation is not done.
"""

from __future__ import annotations

import dataclasses
import itertools
import os

from orchestrator.verify import labourer
from orchestrator.verify.attempts import Ran
from orchestrator.verify.labourer import BookFile
from orchestrator_client import TaskContext

_numbers = itertools.count(1)


class Inventing(BookFile):
    def begins(self, ctx: TaskContext) -> None:
        super().begins(ctx)
        self.write("ran", ran=dataclasses.asdict(dataclasses.replace(Ran.of(ctx), task_id=f"{ctx.task_id}-2")))


class Careless(BookFile):
    def effect(self, ctx: TaskContext, key: str, *, undone: bool = False) -> None:
        if not undone or next(_numbers) % 5:
            super().effect(ctx, key, undone=undone)


if __name__ == "__main__":
    made = {"invent": Inventing, "careless": Careless}[os.environ["MISTAKE"]]
    labourer.BookFile = made  # type: ignore[misc]  # the mistake
    labourer.run()
