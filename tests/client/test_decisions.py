"""The parts without I/O: where to call, whether to call again, and how requests are numbered."""

from __future__ import annotations

import random

import grpc
import pytest

from orchestrator_api.v1.common_pb2 import ClientSession, RequestIdentity
from orchestrator_client import errors
from orchestrator_client.leader import SUSPECT_S, LeaderFinder
from orchestrator_client.requests import WINDOW, RequestLedger, Ticket
from orchestrator_client.retry import TAKE_OVER_MAX_S, TAKE_OVER_S, TAKE_OVERS_MAX, Backoff, CallRetry
from orchestrator_client.status import DETAILS_KEY, Failure, Kind, final_error, read_failure
from tests.client.fake_cluster import error_details

Code = grpc.StatusCode


def finder(*endpoints: str) -> LeaderFinder:
    return LeaderFinder(endpoints or ("a", "b", "c"))


def test_a_hint_is_followed() -> None:
    found = finder()
    found.refused("a", "c", now=0)
    assert found.current == "c"


def test_a_hint_to_a_node_that_was_not_given_is_learned() -> None:
    found = finder()
    found.refused("a", "d", now=0)
    assert found.current == "d"
    assert found.addresses == ["a", "b", "c", "d"]


def test_a_refusal_without_a_hint_moves_to_the_next_node() -> None:
    found = finder()
    found.refused("a", "", now=0)
    assert found.current == "b"
    found.refused("a", "", now=0)  # of another call, which was on its way
    assert found.current == "b"


def test_a_silent_node_is_not_believed_in_until_a_later_term() -> None:
    found = finder()
    assert found.named("a", 3, by="b", now=0)
    found.failed("a", now=1)
    assert found.current == "b"
    assert not found.named("a", 3, by="b", now=1)
    found.refused("b", "a", now=1)
    assert found.current == "c"
    assert not found.named("c", 2, by="c", now=1)
    assert found.named("a", 4, by="b", now=1)
    assert found.current == "a"


def test_a_silent_node_that_names_itself_is_back() -> None:
    found = finder()
    found.failed("a", now=0)
    assert found.named("a", 1, by="a", now=0)
    assert found.current == "a"


def test_suspicion_ends() -> None:
    found = finder()
    found.failed("a", now=0)
    assert not found.named("a", 0, by="b", now=SUSPECT_S / 2)
    assert found.named("a", 0, by="b", now=SUSPECT_S)


def test_who_fell_silent_in_an_unknown_term_is_not_believed_in_because_of_any_term() -> None:
    found = finder()
    found.failed("a", now=0)
    assert not found.named("a", 7, by="b", now=0)
    assert found.named("a", 7, by="a", now=0)


def test_who_names_itself_and_refuses_is_asked_again() -> None:
    found = finder()
    found.refused("a", "a", now=0)
    assert found.current == "a"


def test_another_leader_than_the_silent_one_is_news() -> None:
    found = finder()
    assert found.superseded("a", "b", 5, by="c", now=0)
    assert (found.current, found.term) == ("b", 5)
    assert not found.superseded("b", "b", 5, by="c", now=0)
    assert not found.superseded("b", "", 6, by="c", now=0)
    assert not found.superseded("b", "a", 4, by="c", now=0)
    assert found.superseded("b", "a", 6, by="c", now=0)
    assert (found.current, found.term) == ("a", 6)


def test_the_silent_leader_by_another_name_is_no_news() -> None:
    found = finder()
    assert not found.superseded("a", "inside-a", 5, by="b", now=0)
    assert found.current == "a"
    assert found.superseded("a", "inside-b", 6, by="b", now=0)
    assert found.current == "inside-b"
    found = finder()
    found.same_node("inside-a", "a", 5)
    assert not found.superseded("a", "inside-a", 6, by="b", now=0)
    assert found.current == "a"


def test_when_all_are_silent_each_has_its_turn() -> None:
    found = finder()
    seen = []
    for now in range(6):
        seen.append(found.current)
        found.failed(found.current, now=now / 100)
    assert seen == ["a", "b", "c", "a", "b", "c"]


def test_an_alias_is_given_up_when_its_node_names_another() -> None:
    found = finder()
    found.same_node("inside-a", "a")
    assert found.named("inside-a", 1, by="b", now=0)
    assert found.current == "a"
    found.refused("a", "inside-a", now=0)
    assert found.current == "inside-a"


def failure(kind: Kind, **fields: object) -> Failure:
    return Failure(kind, Code.UNAVAILABLE, "why", **fields)  # type: ignore[arg-type]  # as the test says


def retry(*, deadline: float = 60, identified: bool = True, mutating: bool = True) -> CallRetry:
    return CallRetry(deadline=deadline, identified=identified, mutating=mutating, rng=random.Random(1))


def test_delays_double_from_20_to_500_ms() -> None:
    backoff = Backoff(random.Random(1))
    for limit in (0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5):
        assert limit / 2 <= backoff.next_s() <= limit


def test_hints_are_followed_at_once_but_not_round_in_circles() -> None:
    call = retry()
    refused = failure(Kind.NOT_LEADER, metadata={"leader_address": "b"})
    assert [call.next(refused, 0).after_s > 0 for _ in range(4)] == [False, False, True, True]
    assert retry().next(failure(Kind.NOT_LEADER), 0).locate


def test_who_is_about_to_lead_is_asked_again_soon_but_not_for_ever() -> None:
    call = retry()
    refused = failure(Kind.NOT_LEADER, metadata={"leader_address": "b"})
    delays = [call.next(refused, 0, "b").after_s for _ in range(TAKE_OVERS_MAX)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (TAKE_OVER_S, TAKE_OVER_MAX_S)
    assert [call.next(refused, 0, "b").locate for _ in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("kind", "mutating", "error"),
    [
        (Kind.UNREACHABLE, True, errors.OutcomeUnknown),
        (Kind.OUTCOME_UNKNOWN, True, errors.OutcomeUnknown),
        (Kind.UNREACHABLE, False, errors.NoLeader),
        (Kind.NOT_LEADER, True, errors.NoLeader),
        (Kind.OVERLOADED, True, errors.Overloaded),
    ],
)
def test_at_the_deadline_the_caller_learns_what_is_known(kind: Kind, mutating: bool, error: type[Exception]) -> None:
    call = retry(deadline=10, mutating=mutating)
    call.next(failure(kind), 0)
    with pytest.raises(error):
        call.next(failure(kind), 10)


def test_doubt_about_the_outcome_stays() -> None:
    call = retry(deadline=10)
    call.next(failure(Kind.UNREACHABLE), 0)
    with pytest.raises(errors.OutcomeUnknown):
        call.next(failure(Kind.NOT_LEADER), 10)


def test_without_an_identity_an_unanswered_request_is_not_sent_again() -> None:
    with pytest.raises(errors.OutcomeUnknown):
        retry(identified=False).next(failure(Kind.UNREACHABLE), 0)
    assert retry(identified=False).next(failure(Kind.NOT_LEADER), 0)


def test_an_expired_session_is_replaced_only_for_a_request_that_certainly_had_no_effect() -> None:
    assert retry().next(failure(Kind.SESSION_EXPIRED), 0).new_session
    call = retry()
    call.next(failure(Kind.UNREACHABLE), 0)
    with pytest.raises(errors.OutcomeUnknown):
        call.next(failure(Kind.SESSION_EXPIRED), 0)


def test_a_reply_that_breaks_off_is_no_answer() -> None:
    assert read_failure(Code.INTERNAL, "Received RST_STREAM with error code 2", None).kind is Kind.UNREACHABLE


def test_the_server_says_how_long_to_wait_and_nobody_comes_earlier_nor_all_at_once() -> None:
    delays = {
        CallRetry(deadline=60, identified=True, mutating=True, rng=random.Random(seed))
        .next(failure(Kind.OVERLOADED, retry_after_s=3.5), 0)
        .after_s
        for seed in range(20)
    }
    assert len(delays) == 20
    assert min(delays) >= 3.5
    assert max(delays) <= 1.5 * 3.5


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        (Code.UNAVAILABLE, b"", Kind.UNREACHABLE),
        (Code.DEADLINE_EXCEEDED, b"", Kind.UNREACHABLE),
        (Code.CANCELLED, b"", Kind.UNREACHABLE),
        (Code.INTERNAL, b"", Kind.FINAL),
        (Code.UNAVAILABLE, error_details("NOT_LEADER", leader_address="b"), Kind.NOT_LEADER),
        (Code.FAILED_PRECONDITION, error_details("NOT_LEADER"), Kind.NOT_LEADER),
        (Code.UNAVAILABLE, error_details("OUTCOME_UNKNOWN"), Kind.OUTCOME_UNKNOWN),
        (Code.FAILED_PRECONDITION, error_details("SESSION_EXPIRED"), Kind.SESSION_EXPIRED),
        (Code.RESOURCE_EXHAUSTED, error_details("OVERLOADED", 0.25), Kind.OVERLOADED),
        (Code.RESOURCE_EXHAUSTED, error_details("PAYLOAD_TOO_LARGE"), Kind.FINAL),
        (Code.INVALID_ARGUMENT, b"not a status \xff", Kind.FINAL),
    ],
)
def test_statuses_are_read(code: grpc.StatusCode, details: bytes, kind: Kind) -> None:
    read = read_failure(code, "why", ((DETAILS_KEY, details), ("other", "text")))
    assert read.kind is kind
    assert read.leader_address == ("b" if b"leader_address" in details else "")


@pytest.mark.parametrize(
    ("code", "reason", "error"),
    [
        (Code.INVALID_ARGUMENT, "", errors.InvalidRequest),
        (Code.FAILED_PRECONDITION, "REQUEST_EXPIRED", errors.RequestExpired),
        (Code.FAILED_PRECONDITION, "COMPENSATION_STARTED", errors.WrongState),
        (Code.RESOURCE_EXHAUSTED, "LIMIT", errors.InvalidRequest),
        (Code.INTERNAL, "", errors.InternalError),
        (Code.UNIMPLEMENTED, "", errors.Unimplemented),
    ],
)
def test_refusals_become_typed_errors(code: grpc.StatusCode, reason: str, error: type[Exception]) -> None:
    assert type(final_error(read_failure(code, "why", ((DETAILS_KEY, error_details(reason)),)))) is error


def identity_of(ticket: Ticket) -> ClientSession:
    request = RequestIdentity()
    ticket.identify(request)
    return request.session


def test_the_lowest_request_without_an_answer_is_told() -> None:
    ledger = RequestLedger("s", idle_timeout_s=10, now=0)
    first, second, third = (Ticket(ledger, now=0) for _ in range(3))
    second.close()
    assert identity_of(third).lowest_unacknowledged == 1
    assert not ledger.is_stale(now=100)
    first.close()
    identity = identity_of(third)
    assert (identity.id, identity.sequence, identity.lowest_unacknowledged) == ("s", 3, 3)
    third.close()
    assert not ledger.is_stale(now=7)
    assert ledger.is_stale(now=9)


def test_numbers_do_not_run_far_ahead_of_the_oldest_open_request() -> None:
    ledger = RequestLedger("s", idle_timeout_s=10, now=0)
    oldest = Ticket(ledger, now=0)
    for _ in range(WINDOW - 1):
        assert ledger.has_room()
        Ticket(ledger, now=0).close()
    assert not ledger.has_room()
    oldest.close()
    assert ledger.has_room()
