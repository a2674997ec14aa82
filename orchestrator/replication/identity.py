"""Who this node is: cluster id, node name and the incarnation made together with its data directory.

A wiped disk gets a new incarnation, so it can never pass for the node whose votes and acknowledgements it lost.
"""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from orchestrator import __version__
from orchestrator.replication.errors import (
    DirectoryNotBlank,
    FormatUnsupported,
    IdentityError,
    NotInitialised,
    Superseded,
    WrongCluster,
    WrongNode,
)
from orchestrator.replication.files import Files, replace_file

FILE_NAME = "node.json"
FORMAT_VERSION = 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    cluster_id: str
    node: str
    incarnation: str
    # Node name -> "host:port" that peers dial.
    members: dict[str, str]
    format_version: int = FORMAT_VERSION
    # Raised by restore and forced recovery.
    recovery_epoch: int = 0
    # Set once the cluster was formed: from then on a missing journal is a loss, not a beginning.
    formed: bool = False
    # A forced recovery has begun to change the data, and has not come to its end.
    recovering: bool = False

    def address_of(self, name: str) -> tuple[str, int]:
        host, _, port = self.members[name].rpartition(":")
        return host.strip("[]"), int(port)


def _random_128_bits() -> str:
    return f"{random.SystemRandom().getrandbits(128):032x}"


def generate_cluster_id() -> str:
    return _random_128_bits()


def superseded(identity: Identity, epoch: int) -> Superseded:
    """A peer of the same cluster is of this later epoch."""
    return Superseded(
        f"cluster {identity.cluster_id} is in recovery epoch {epoch}, and the data of node {identity.node!r} are of "
        f"epoch {identity.recovery_epoch}: it was given up when the cluster was recovered. Move its data directory "
        "away and make another one with `cluster rebuild` or `cluster join`"
    )


def initialise(
    files: Files,
    data_dir: Path,
    cluster_id: str | None,
    node: str,
    members: dict[str, str],
    *,
    recovery_epoch: int = 0,
) -> Identity:
    """Makes a data directory; durable when it returns. Blocking. Raises IdentityError, OSError."""
    identity = new_identity(cluster_id, node, members, recovery_epoch=recovery_epoch)
    make_blank(files, data_dir)
    save(files, data_dir, identity)
    return identity


def new_identity(
    cluster_id: str | None, node: str, members: dict[str, str], *, recovery_epoch: int = 0
) -> Identity:
    """Of a data directory that is to be made, with an incarnation that no other one has. Raises IdentityError."""
    if node not in members:
        raise IdentityError(
            f"node {node!r} is not among the initial members {sorted(members)}: add it, or correct its name"
        )
    for name, address in members.items():
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise IdentityError(f"the peer address of {name!r} must be host:port, not {address!r}")
    return Identity(
        cluster_id=cluster_id or generate_cluster_id(),
        node=node,
        incarnation=_random_128_bits(),
        members=dict(members),
        recovery_epoch=recovery_epoch,
    )


def make_blank(files: Files, data_dir: Path) -> None:
    """The directory, durable when this returns, if it is not there. Raises DirectoryNotBlank if it holds anything."""
    if files.exists(data_dir):
        present = [name for name in files.listdir(data_dir) if name != FILE_NAME + ".new"]
        if present:
            raise DirectoryNotBlank(
                f"{data_dir} is not blank (it holds {', '.join(present[:5])}): choose another directory, "
                "or move this one away if its data are really not needed any more"
            )
    missing = [directory for directory in (data_dir, *data_dir.parents) if not files.exists(directory)]
    files.make_directory(data_dir)
    for directory in reversed(missing or [data_dir]):
        files.sync_directory(directory.parent)


def save(files: Files, data_dir: Path, identity: Identity) -> None:
    replace_file(files, data_dir / FILE_NAME, msgspec.json.format(msgspec.json.encode(identity)))


def load(
    files: Files, data_dir: Path, *, node: str | None = None, cluster_id: str | None = None, unfinished: bool = False
) -> Identity:
    """Reads node.json and checks it against what the configuration expects, where that is given. Blocking.

    `unfinished`: also while a recovery of it has not come to its end.
    """
    path = data_dir / FILE_NAME
    if not files.exists(path):
        raise NotInitialised(
            f"{data_dir} holds no {FILE_NAME}: run `orchestrator init` there once, or correct the path. If this "
            "node had data before, its disk was lost or is not mounted: do not init, look there first"
        )
    try:
        identity = msgspec.json.decode(files.read(path), type=Identity)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise IdentityError(
            f"{path} cannot be read ({error}): restore it, or rebuild this node, `orchestrator cluster rebuild`"
        ) from error
    if identity.format_version != FORMAT_VERSION:
        raise FormatUnsupported(
            f"{path} has format version {identity.format_version}, and orchestrator {__version__} knows "
            f"{FORMAT_VERSION}: run the release that wrote it, or upgrade through one that reads both"
        )
    if node is not None and identity.node != node:
        raise WrongNode(
            f"{data_dir} belongs to node {identity.node!r}, but this process is configured as {node!r}: "
            "correct the node name or the data directory"
        )
    if cluster_id is not None and identity.cluster_id != cluster_id:
        raise WrongCluster(
            f"{data_dir} belongs to cluster {identity.cluster_id}, but this process is configured for "
            f"{cluster_id}: correct the cluster id or the data directory"
        )
    if identity.recovering and not unfinished:
        raise IdentityError(
            f"the recovery of {data_dir} was begun and has not come to its end: run `orchestrator recover` again"
        )
    return identity
