"""Whether a failed call is tried again, when, and what its caller is told in the end. No I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass

from orchestrator_client import errors
from orchestrator_client.status import Failure, Kind, final_error

FIRST_DELAY_S = 0.02
DELAY_MAX_S = 0.5
# A node that was elected needs a moment until it can serve: it is asked again soon, but a little later each time, as it
# has enough to do; and not for ever.
TAKE_OVER_S = 0.02
TAKE_OVER_GROWTH = 1.5
TAKE_OVER_MAX_S = 0.1
TAKE_OVERS_MAX = 10
# A token that is not known may just have been replaced; one that never will be is no reason to wait.
UNKNOWN_TOKENS_MAX = 3
# Before its deadline a start has to leave so much for its answer: so many times what answers take, at least this, and
# at most this part of its time.
ANSWERS = 2
SPARE_S = 0.02
SPARE_PART = 0.25


class Backoff:
    """Delays that double from 20 ms to 500 ms, each drawn from the upper half of its range."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._next_s = FIRST_DELAY_S

    def next_s(self) -> float:
        delay_s = self._next_s * (0.5 + self._rng.random() / 2)
        self._next_s = min(self._next_s * 2, DELAY_MAX_S)
        return delay_s

    def reset(self) -> None:
        self._next_s = FIRST_DELAY_S


@dataclass(frozen=True)
class TryAgain:
    """Send the same request again after a delay."""

    after_s: float
    # Under a new client session: the old one is gone, and the request certainly had no effect under it.
    new_session: bool = False
    # Ask the nodes who leads before sending.
    locate: bool = False


class CallRetry:
    """The attempts of one call, until its deadline.

    `identified` says whether the cluster can recognise a repetition: a reading call, or one with a request identity.
    Without it a call whose outcome is unknown is not sent again.
    """

    def __init__(self, *, deadline: float, identified: bool, mutating: bool, rng: random.Random) -> None:
        self._deadline = deadline
        self._identified = identified
        self._mutating = mutating
        self._backoff = Backoff(rng)
        # Some attempt may have taken effect.
        self._outcome_unknown = False
        # How many nodes in a row have refused without a delay in between.
        self._hops = 0
        self._take_overs = 0
        self._unknown_tokens = 0
        self._began: float | None = None
        self._rng = rng

    def next(self, failure: Failure, now: float, by: str = "unknown") -> TryAgain:
        """What to do after an attempt that failed at this address.

        Raises what the caller is to see if there is no further one.
        """
        if failure.kind is Kind.FINAL:
            raise final_error(failure)
        if failure.kind is Kind.TOKEN_REFUSED and failure.reason == "TOKEN_INVALID":
            self._unknown_tokens += 1
            if self._unknown_tokens > UNKNOWN_TOKENS_MAX:
                raise final_error(failure)
        if failure.kind is Kind.SESSION_EXPIRED and self._outcome_unknown:
            raise self._unknown(failure)
        if failure.kind in (Kind.UNREACHABLE, Kind.OUTCOME_UNKNOWN) and failure.sent:
            self._outcome_unknown = self._mutating
            if not self._identified:
                raise self._unknown(failure)
        decision = self._decide(failure, by)
        if now + decision.after_s >= self._deadline:
            raise self.given_up(failure)
        return decision

    def _decide(self, failure: Failure, by: str) -> TryAgain:
        if failure.kind is Kind.NOT_LEADER and failure.leader_address == by and self._take_overs < TAKE_OVERS_MAX:
            delay_s = min(TAKE_OVER_S * TAKE_OVER_GROWTH**self._take_overs, TAKE_OVER_MAX_S)
            self._take_overs += 1
            return TryAgain(delay_s)
        if failure.kind is Kind.NOT_LEADER:
            self._hops += 1
            # A hint is followed at once, but two nodes that name each other must not be asked in a tight loop.
            if failure.leader_address and self._hops <= 2:
                return TryAgain(0.0)
            return TryAgain(self._backoff.next_s(), locate=True)
        self._hops = 0
        if failure.kind is Kind.SESSION_EXPIRED:
            return TryAgain(self._backoff.next_s(), new_session=True)
        if failure.kind is Kind.TOKEN_REFUSED:
            return TryAgain(self._backoff.next_s())
        if failure.kind is Kind.OVERLOADED:
            # Never before the time that the cluster asks for; and not all at once.
            asked_s = (failure.retry_after_s or 0.0) * (1 + self._rng.random() / 2)
            return TryAgain(max(asked_s, self._backoff.next_s()))
        return TryAgain(self._backoff.next_s(), locate=True)

    def _unknown(self, failure: Failure) -> errors.ReplyError:
        message = f"the request was sent, and what became of it is not known: {failure.message}"
        return errors.OutcomeUnknown(message, reason=failure.reason, metadata=failure.metadata)

    @property
    def is_in_doubt(self) -> bool:
        """Some attempt may have taken effect."""
        return self._outcome_unknown

    def worth_until(self, now: float, answer_s: float) -> float:
        """Until when an attempt is likely to be answered before the deadline.

        One that is not would leave its caller in doubt, about a cluster that is too busy to be asked for nothing.
        """
        self._began = now if self._began is None else self._began
        spare_s = max(ANSWERS * answer_s, SPARE_S)
        return self._deadline - min(spare_s, SPARE_PART * (self._deadline - self._began))

    def given_up(self, failure: Failure) -> errors.ReplyError:
        """What the caller is to see if no attempt follows the last failure, of this call or of others like it."""
        if self._outcome_unknown:
            return self._unknown(failure)
        if failure.kind is Kind.TOKEN_REFUSED:
            return final_error(failure)
        if failure.kind is Kind.OVERLOADED:
            message = f"the cluster had no room until the deadline: {failure.message}"
            return errors.Overloaded(message, reason=failure.reason, metadata=failure.metadata)
        message = f"no leader answered before the deadline: {failure.message}"
        return errors.NoLeader(message, reason=failure.reason, metadata=failure.metadata)
