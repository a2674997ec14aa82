"""Looks for the mistakes that can be planted: how many seeds it takes until each is found, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from tests.simulation import mutants
from tests.simulation.jobs import SEEDS_PER_PROCESS, Terms

SHOWN_CHARACTERS = 100


@dataclass(frozen=True)
class Hunt:
    """What became of one mistake: the first seed that shows it, if any of those tried does, and by what."""

    mutant: str
    first: int
    tried: int
    violation: str = ""

    def __str__(self) -> str:
        shown = self.violation.partition(" s: ")[2].replace("|", "/").replace("\n", " ")
        if len(shown) > SHOWN_CHARACTERS:
            shown = shown[:SHOWN_CHARACTERS].rsplit(" ", 1)[0] + " ..."
        seeds = str(self.tried) if self.violation else f"not in {self.tried}"
        return f"| `{self.mutant}` | {mutants.MUTANTS[self.mutant].about} | {seeds} | {shown} |"


def hunt(mutant: str, first: int, seeds: int, terms: Terms) -> Hunt:
    """One seed after the other, until something is violated."""
    with mutants.planted(mutant):
        for seed in range(first, first + seeds):
            if violations := terms.run(seed).violations:
                return Hunt(mutant, first, seed - first + 1, violations[0])
    return Hunt(mutant, first, seeds)


def hunt_all(names: Iterable[str], first: int, seeds: int, terms: Terms, processes: int) -> Iterator[Hunt]:
    """In the order of the names, several at a time."""
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, max_tasks_per_child=SEEDS_PER_PROCESS) as pool:
        futures = [pool.submit(hunt, name, first, seeds, terms) for name in names]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
