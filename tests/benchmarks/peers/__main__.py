"""`python -m tests.benchmarks.peers install NAME ...` fetches what peers need; `list` says which are there."""

from __future__ import annotations

import argparse
import sys

from tests.benchmarks.peers.catalogue import PEERS, installations
from tests.benchmarks.peers.installation import NotInstallable


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="all peers, and what is in the way of measuring them")
    install = commands.add_parser("install", help="into .make/peers, nothing into the system")
    names = [*PEERS, "all"]
    install.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args()
    if arguments.command == "list":
        for peer in PEERS.values():
            print(f"{peer.name}: {peer.obstacle() or 'installed'}")
        return 0
    return _install(list(PEERS) if "all" in arguments.names else arguments.names)


def _install(names: list[str]) -> int:
    failed = False
    for installation in installations(names):
        try:
            installation.ensure()
        except NotInstallable as error:
            print(f"{installation.name}: not installable: {error}", file=sys.stderr)
            failed = True
        else:
            print(f"{installation.name}: {installation.directory}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
