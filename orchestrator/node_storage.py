"""What a node keeps of the cluster's state on its disk: opened, flushed, copied, and replaced by a leader's snapshot.

The journal is the replicated log's own, and so is what is in memory the applier's; both come up after the storage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.config import Config
from orchestrator.engine.machine import Machine
from orchestrator.replication.applier import Applier
from orchestrator.replication.errors import SnapshotUnfit
from orchestrator.replication.files import replace_file
from orchestrator.replication.identity import Identity
from orchestrator.replication.log import ReplicatedLog
from orchestrator.replication.ports import SnapshotCopy
from orchestrator.replication.release import Release
from orchestrator.services.checkpoints import ContentCheck
from orchestrator.storage.backups import Backups
from orchestrator.storage.copies import Copies
from orchestrator.storage.database import Database
from orchestrator.storage.errors import SnapshotCorrupt
from orchestrator.storage.flusher import Flusher, FlusherSettings
from orchestrator.storage.scrub import Scrub
from orchestrator.storage.stamps import stamp_of
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World

# Where the scrub of the database stands.
SCRUBBED = "scrub.json"


class NodeStorage:
    """The log's source and sink of snapshots. Raises the database's errors when it is made."""

    def __init__(
        self,
        config: Config,
        world: World,
        identity: Identity,
        *,
        log: Callable[[], ReplicatedLog],
        applier: Callable[[], Applier],
        content: ContentCheck,
        free_disk_bytes: Callable[[], int],
        on_fatal: Callable[[BaseException], None],
        metrics: Metrics,
        release: Release,
        restore: Callable[[Database], Machine],
    ) -> None:
        self._log = log
        self._applier = applier
        self._metrics = metrics
        self._wall_ms = world.clock.wall_ms
        self._release = release
        self._restore = restore
        path = config.data_dir / "state.db"
        if world.database_files.exists(path):
            # Before anything else, for there may be nothing else that this release can read.
            stamp = stamp_of(path, world.database_vfs)
            release.require(stamp.level, f"{config.data_dir}{stamp.last_opened} is")
        self.database = Database.open(
            path,
            cluster_id=identity.cluster_id,
            recovery_epoch=identity.recovery_epoch,
            vfs=world.database_vfs,
            lanes=world.lanes,
            files=world.database_files,
        )
        self.database.sign(release.version)
        self.database.on_damage = on_fatal
        self.flusher = Flusher(
            self.database,
            durable_index=lambda: log().durable_index,
            wait_durable=self._wait_durable,
            on_flushed=lambda index: log().flushed(index),
            on_fatal=on_fatal,
            on_checkpoint=content.reached,
            settings=FlusherSettings(interval_ms=config.flush_interval_ms, dirty_bytes_max=config.max_dirty_bytes),
            on_flush_seconds=metrics.flush_seconds.observe,
        )
        self.copies = Copies(self.database, self.flusher, config.data_dir / "snapshots", lanes=world.lanes)
        self.copies.remove_leftovers()
        self.backups = Backups(self.database, self.copies, node=config.node, version=release.version,
                               settle=self.settle, room_bytes=free_disk_bytes, on_ended=self._backup_ended)
        self.restored = restore(self.database)
        scrubbed = config.data_dir / SCRUBBED
        self.scrub = Scrub(
            self.database,
            seconds=config.scrub_interval_ms / 1000,
            load=lambda: world.files.read(scrubbed) if world.files.exists(scrubbed) else b"",
            save=lambda data: replace_file(world.files, scrubbed, data),
            monotonic=world.clock.monotonic,
            wall_ms=world.clock.wall_ms,
        )

    async def settle(self) -> None:
        """Returns once everything that is applied now is in the database."""
        await self._applier().stage_now()
        await self.flusher.flush_now()

    async def copy(self, *, check: bool) -> SnapshotCopy:
        """For a follower that is too far behind (see the log's SnapshotSource)."""
        self._applier().stage_soon()
        await self.flusher.flush_now()
        return SnapshotCopy(**vars(await self.copies.copy(check=check)))

    async def install(self, path: Path, index: int, term: int) -> None:
        """A snapshot from the leader has arrived whole (see the log's SnapshotSink)."""
        async with self._applier().standing_still():
            try:
                stamp = await self.copies.stamp(path)
                self._release.require(stamp.level, f"the snapshot from the leader{stamp.last_opened} is")
                await self.copies.install(path, index, term)
            except SnapshotCorrupt as error:
                raise SnapshotUnfit(str(error)) from error
            self.restored = self._restore(self.database)
        self._metrics.snapshots_installed.inc()

    def _backup_ended(self, is_whole: bool, seconds: float) -> None:
        self._metrics.backups.inc("given" if is_whole else "broken_off")
        if is_whole:
            self._metrics.last_backup_timestamp_seconds.put_one(self._wall_ms() / 1000)
            self._metrics.last_backup_seconds.put_one(seconds)

    def tell(self) -> None:
        """How far the scrub is, to the metrics."""
        metrics = self._metrics
        metrics.scrub_progress.set(self.scrub.progress)
        completed_ms = self.scrub.standing.completed_ms
        metrics.last_scrub_timestamp_seconds.put_one(completed_ms / 1000 if completed_ms else None)

    async def close(self) -> None:
        await self.flusher.close()
        self.copies.close()
        await self.database.close()

    async def _wait_durable(self, index: int) -> None:
        # The log hands out what is in this node's own journal only; after a snapshot there is nothing below it.
        if self._log().durable_index < index:
            raise RuntimeError(f"entry {index} was applied before it was durable here")
