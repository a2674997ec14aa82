"""Every setting of the replicated log, unit in the name; relations between them are checked at construction."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config import Config

KIB = 1024
MIB = 1024 * KIB
PEER_SILENCE_MS_MIN = 3_000


@dataclass(frozen=True, kw_only=True)
class RaftSettings:
    heartbeat_interval_ms: int = 50
    # A leader, or a follower, that stands still for 200 ms on a busy machine must not cause an election.
    election_timeout_min_ms: int = 500
    election_timeout_max_ms: int = 750
    # After the leader's connection closed and redialling was refused: its process is gone, no need to wait for silence.
    fast_failover_min_ms: int = 10
    fast_failover_max_ms: int = 50
    # A learner whose log is this close to the leader's becomes a member that votes.
    learner_lag_entries_max: int = 100
    # Followers learn a new commit index at most this late when no entry carries it.
    commit_notice_ms: int = 10
    gossip_interval_ms: int = 250
    # Nothing heard from a peer for so long, or for three election timeouts: its connections are made anew.
    peer_silence_ms: int = PEER_SILENCE_MS_MIN

    entry_bytes_max: int = 8 * MIB
    batch_bytes_max: int = 4 * MIB
    probe_bytes_max: int = 64 * KIB
    in_flight_bytes_max: int = 16 * MIB
    frame_bytes_max: int = 16 * MIB
    outgoing_buffer_bytes_max: int = 64 * MIB

    redial_min_ms: int = 20
    redial_max_ms: int = 500
    handshake_timeout_ms: int = 2_000

    journal_segment_bytes: int = 64 * MIB
    journal_cache_bytes: int = 32 * MIB
    journal_tail_entries: int = 10_000
    journal_tail_bytes: int = 256 * MIB

    snapshot_chunk_bytes: int = 256 * KIB
    snapshot_chunks_in_flight: int = 8
    # For so long a transfer, its copy and the journal after it are kept for a follower that can't be reached.
    snapshot_patience_ms: int = 60_000

    @classmethod
    def of(cls, config: Config) -> RaftSettings:
        """As a node's configuration says."""
        return cls(
            heartbeat_interval_ms=config.heartbeat_ms,
            election_timeout_min_ms=config.election_timeout_min_ms,
            election_timeout_max_ms=config.election_timeout_max_ms,
            peer_silence_ms=max(PEER_SILENCE_MS_MIN, 3 * config.election_timeout_max_ms),
            journal_segment_bytes=config.journal_segment_bytes,
            journal_tail_entries=config.journal_tail_entries,
            journal_tail_bytes=config.journal_tail_bytes,
        )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0 and name != "journal_tail_entries":
                raise ValueError(f"{name} must be positive, not {value}")
        self._require(
            self.election_timeout_min_ms > 3 * self.heartbeat_interval_ms,
            "election_timeout_min_ms must be more than three heartbeat intervals",
        )
        self._require(
            self.election_timeout_max_ms > self.election_timeout_min_ms,
            "election_timeout_max_ms must be more than election_timeout_min_ms",
        )
        self._require(
            self.fast_failover_max_ms > self.fast_failover_min_ms,
            "fast_failover_max_ms must be more than fast_failover_min_ms",
        )
        self._require(self.redial_max_ms >= self.redial_min_ms, "redial_max_ms must not be less than redial_min_ms")
        self._require(
            self.batch_bytes_max <= self.in_flight_bytes_max, "in_flight_bytes_max must hold at least one batch"
        )
        # A batch may end with one entry that crosses its limit, and frames have a header.
        self._require(
            self.batch_bytes_max + self.entry_bytes_max < self.frame_bytes_max,
            "frame_bytes_max must be more than batch_bytes_max + entry_bytes_max",
        )
        self._require(
            self.in_flight_bytes_max + self.frame_bytes_max < self.outgoing_buffer_bytes_max,
            "outgoing_buffer_bytes_max must be more than in_flight_bytes_max + frame_bytes_max",
        )

    @property
    def silence_limit_ms(self) -> int:
        return max(self.peer_silence_ms, 3 * self.election_timeout_max_ms, 4 * self.gossip_interval_ms)

    @staticmethod
    def _require(holds: bool, message: str) -> None:
        if not holds:
            raise ValueError(message)
