"""A failing run is cut down to the faults that it needs, and what is left repeats itself exactly."""

from __future__ import annotations

import pytest

from tests.simulation import mutants
from tests.simulation.run import Happened, Result, Trouble, run_seed
from tests.simulation.shrink import kind_of, shrink

# It shows when a leader is lost while an entry is under way, so it needs a fault or two.
MUTANT = "commit_old_term"
SEEDS = 20


def _run(seed: int, trouble: Trouble) -> Result:
    with mutants.planted(MUTANT):
        return run_seed(seed, trouble)


def _broken() -> Result:
    """The first seed that has many faults and shows the mistake."""
    for seed in range(SEEDS):
        whole = _run(seed, Trouble(10.0))
        if whole.violations and len(whole.happened) > 4:
            return whole
    raise AssertionError(f"{MUTANT} is not found by {SEEDS} seeds")


@pytest.mark.timeout(400)
def test_a_failing_seed_is_cut_down_to_the_faults_it_needs() -> None:
    whole = _broken()

    def run(trouble_seconds: float, only: frozenset[int]) -> Result:
        return _run(whole.seed, Trouble(trouble_seconds, only=only))

    shrunk = shrink(run, whole, runs_max=150, seconds_max=1_000.0)
    assert shrunk.is_minimal
    assert 1 <= len(shrunk.numbers) <= 5
    kind = kind_of(whole.violations[0])
    assert kind_of(shrunk.result.violations[0]) == kind
    again = run(shrunk.trouble_seconds, frozenset(shrunk.numbers))
    assert (again.trace_hash, again.violations) == (shrunk.result.trace_hash, shrunk.result.violations)
    for number in shrunk.numbers:
        less = run(shrunk.trouble_seconds, frozenset(shrunk.numbers) - {number})
        assert not less.violations or kind_of(less.violations[0]) != kind


def test_what_is_left_out_changes_nothing_in_the_others() -> None:
    whole = run_seed(1, Trouble(8.0))
    assert len(whole.happened) > 3
    for left in ({happened.number for happened in whole.happened[::2]}, {whole.happened[-1].number}):
        part = run_seed(1, Trouble(8.0, only=left))
        assert [(one.number, one.after_seconds) for one in part.happened] == [
            (one.number, one.after_seconds) for one in whole.happened if one.number in left
        ]


class Fake:
    """A run that is broken when certain faults come together, of which some alone break it in another way."""

    def __init__(self, needed: set[int], other: set[int] | None = None) -> None:
        self.needed, self.other = needed, other
        self.runs = 0

    def __call__(self, trouble_seconds: float, only: frozenset[int] | None) -> Result:
        self.runs += 1
        numbers = [number for number in range(1, 41) if only is None or number in only]
        numbers = [number for number in numbers if number / 2 < trouble_seconds]
        result = Result(1, trouble_seconds=trouble_seconds, simulated_seconds=60.0)
        result.happened = [Happened(number, number / 2, f"fault {number}") for number in numbers]
        if self.needed <= set(numbers):
            result.violations = [f"at 7.1 s: n{len(numbers)} lost entry {len(numbers)}"]
        elif self.other is not None and self.other <= set(numbers):
            result.violations = ["at 7.1 s: not within 60 s of peace: everything ends"]
        return result

    def whole(self) -> Result:
        return self(30.0, None)


@pytest.mark.parametrize("needed", [set(), {7}, {1, 40}, {3, 4, 5, 29}])
def test_exactly_what_is_needed_is_left(needed: set[int]) -> None:
    fake = Fake(needed)
    shrunk = shrink(fake, fake.whole())
    assert set(shrunk.numbers) == needed
    assert shrunk.is_minimal
    assert shrunk.runs == fake.runs - 1
    assert shrunk.trouble_seconds <= max(needed, default=0) / 2 + 2


def test_another_breach_does_not_count() -> None:
    fake = Fake({3, 9}, other={3})
    assert shrink(fake, fake.whole()).numbers == (3, 9)


def test_runs_are_bounded() -> None:
    fake = Fake({3, 9, 17, 30})
    shrunk = shrink(fake, fake.whole(), runs_max=5)
    assert fake.runs - 1 == shrunk.runs == 5
    assert not shrunk.is_minimal
    assert {3, 9, 17, 30} <= set(shrunk.numbers)


def test_time_is_bounded() -> None:
    fake = Fake({3, 9})
    assert not shrink(fake, fake.whole(), seconds_max=0.0).is_minimal
    assert fake.runs == 1


def test_breaches_of_one_kind_differ_in_names_and_numbers_only() -> None:
    first = kind_of("at 1.250 s: n1 applied index 43 of term 4, and 1 disks hold it")
    assert first == kind_of("at 11.9 s: n3 applied index 7 of term 1, and 0 disks hold it")
    assert first != kind_of("at 1.250 s: n1 applied index 43 of term 4 with the chain 00ff, and n2 of term 3")
