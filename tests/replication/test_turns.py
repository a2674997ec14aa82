"""Executions take turns; none is starved, and nothing is lost, taken twice or put out of its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.model import ExecutionKey
from orchestrator.replication.turns import Owner, Turns

LARGE, SMALL = ("default", "large"), ("default", "small")
PLENTY = 1_000


@dataclass(frozen=True)
class Waiting:
    """The number of something that waits, and its bytes."""

    number: int
    data: bytes = b"x"


def turns(*, entry: int = 4, under_way: int = 6) -> Turns[Waiting]:
    return Turns(share_of_entry=entry, share_under_way=under_way)


def put(queue: Turns[Waiting], execution: ExecutionKey | None, *numbers: int, now: float = 0.0) -> None:
    for number in numbers:
        queue.put(execution, Waiting(number), now)


def take(queue: Turns[Waiting], count: int = PLENTY, *, now: float = 0.0) -> tuple[list[int], dict[Owner, int]]:
    items, owners = queue.take(count, PLENTY, now)
    return [item.number for item in items], owners


def test_executions_take_turns_each_in_its_own_order() -> None:
    queue = turns()
    put(queue, LARGE, 1, 2, 3)
    put(queue, SMALL, 11, 12)
    assert take(queue) == ([1, 11, 2, 12, 3], {LARGE: 3, SMALL: 2})
    assert (len(queue), queue.is_any_due) == (0, False)


def test_one_has_no_more_than_its_share_of_an_entry_and_of_what_is_under_way() -> None:
    queue = turns(entry=4, under_way=6)
    put(queue, LARGE, *range(20))
    first, under_way = take(queue)
    assert first == [0, 1, 2, 3]
    assert take(queue)[0] == [4, 5]
    assert (queue.is_any_due, len(queue)) == (False, 14)
    assert take(queue)[0] == []
    put(queue, SMALL, 100)
    assert take(queue)[0] == [100]
    queue.give_back(under_way, 0.0)
    assert take(queue)[0] == [6, 7, 8, 9]
    assert not queue.is_any_due


def test_what_comes_while_all_of_its_share_is_under_way_waits() -> None:
    queue = turns(entry=4, under_way=4)
    put(queue, LARGE, *range(4))
    _, under_way = take(queue)
    put(queue, LARGE, 4)
    assert not queue.is_any_due
    queue.give_back(under_way, 0.0)
    assert take(queue)[0] == [4]


def test_who_had_a_share_of_the_entry_comes_after_the_others_in_the_next() -> None:
    queue = turns(entry=2, under_way=8)
    put(queue, LARGE, *range(5))
    take(queue)
    put(queue, SMALL, 100)
    assert take(queue, 2)[0] == [2, 100]
    assert take(queue)[0] == [3, 4]


def test_commands_of_no_execution_come_as_they_came_and_have_no_share() -> None:
    queue = turns(entry=1, under_way=1)
    put(queue, None, *range(5))
    assert take(queue) == ([0, 1, 2, 3, 4], {})


def test_an_entry_closes_at_its_bytes_but_for_the_first() -> None:
    queue = turns()
    for size in (400, 400, 5_000, 400):
        queue.put(None, Waiting(size, b"x" * size), 0.0)
    taken = [[item.number for item in queue.take(PLENTY, 1_000, 0.0).items] for _ in range(3)]
    assert taken == [[400, 400], [5_000], [400]]


def test_the_age_is_that_of_who_is_next() -> None:
    queue = turns(entry=1, under_way=2)
    assert queue.waiting_since is None
    put(queue, LARGE, 1, 2, 3, now=1.0)
    put(queue, SMALL, 11, now=2.0)
    _, first = take(queue, 1, now=3.0)
    # A turn of the large one is over, though its next command came before.
    assert queue.waiting_since == 2.0
    take(queue, 1, now=4.0)
    assert queue.waiting_since == 3.0
    take(queue, 1, now=5.0)
    assert queue.waiting_since is None
    queue.give_back(first, 6.0)
    assert queue.waiting_since == 6.0


def test_cleared_it_answers_what_waited_and_knows_what_is_under_way() -> None:
    queue = turns(entry=2, under_way=2)
    put(queue, LARGE, 1, 2, 3)
    _, under_way = take(queue)
    put(queue, None, 4)
    assert sorted(item.number for item in queue.clear()) == [3, 4]
    assert (len(queue), queue.is_any_due) == (0, False)
    put(queue, LARGE, 5)
    assert not queue.is_any_due
    queue.give_back(under_way, 0.0)
    assert take(queue)[0] == [5]


SHARES = st.tuples(st.integers(1, 4), st.integers(1, 6))
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3)),  # 0: of no execution
        st.tuples(st.just("take"), st.integers(1, 6)),
        st.tuples(st.just("give back"), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(SHARES, MOVES)
def test_everything_is_taken_once_in_the_order_of_its_execution(
    shares: tuple[int, int], moves: Sequence[tuple[str, int]]
) -> None:
    queue = turns(entry=shares[0], under_way=shares[1])
    waiting: dict[int, deque[int]] = {owner: deque() for owner in range(4)}
    of: dict[int, int] = {}
    held: list[dict[Owner, int]] = []

    def took(count: int) -> int:
        numbers, owners = take(queue, count)
        for number in numbers:
            assert waiting[of[number]].popleft() == number
        assert all(number <= shares[0] for number in owners.values())
        held.append(owners)
        for owner in owners:
            assert sum(one.get(owner, 0) for one in held) <= shares[1]
        return len(numbers)

    for number, (move, value) in enumerate(moves):
        if move == "put":
            of[number] = value
            waiting[value].append(number)
            put(queue, ("default", str(value)) if value else None, number)
        elif move == "take":
            took(value)
        elif held:
            queue.give_back(held.pop(value % len(held)), 0.0)
        assert len(queue) == sum(len(numbers) for numbers in waiting.values())
    while len(queue):
        while held:
            queue.give_back(held.pop(), 0.0)
        assert took(PLENTY), "what waits is never due"
