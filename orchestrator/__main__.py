"""`python -m orchestrator`, and the `orchestrator` command."""

import os

# gRPC's older way to wait for sockets has no threads of its own between them and asyncio: a message costs half as much,
# and takes half as long. This is looked at when gRPC is imported.
GRPC_EXPERIMENTS = "-event_engine_client,-event_engine_listener"
# Else it writes a line of its own for each stranger that fails to speak TLS. This is looked at then, too.
GRPC_VERBOSITY = "ERROR"


def main() -> None:
    os.environ.setdefault("GRPC_EXPERIMENTS", GRPC_EXPERIMENTS)
    os.environ.setdefault("GRPC_VERBOSITY", GRPC_VERBOSITY)
    from orchestrator.cli.app import cli  # noqa: PLC0415 - imports gRPC
    from orchestrator.cli.app import main as command  # noqa: PLC0415 - same
    from orchestrator.verify.command import verify  # noqa: PLC0415 - same

    # A user of all others, which none of them knows.
    cli.add_command(verify)
    command()


if __name__ == "__main__":
    main()
