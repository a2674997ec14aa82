"""`orchestrator verify`: its options, its signals, its exit codes, and what it leaves behind."""

from __future__ import annotations

import asyncio
import heapq
import json
import math
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.cli import exits
from orchestrator.cli.local_cluster import LocalClusterError
from orchestrator.cli.session import Session, caller_options, current_session
from orchestrator.verify import plot, report
from orchestrator.verify.connecting import Connecting
from orchestrator.verify.crowd import CALLER, LABOURER, CrowdFailed
from orchestrator.verify.machines import namespaces
from orchestrator.verify.machines.cluster import NODE
from orchestrator.verify.machines.faults import KINDS
from orchestrator.verify.report import Report
from orchestrator.verify.settings import Named, Settings, WrongCluster
from orchestrator.verify.table import Section
from orchestrator.verify.talking import Talk
from orchestrator.verify.trial import CROWD_KINDS
from orchestrator.verify.undoing import Record, RecordUnusable
from orchestrator_client import OrchestratorError

SEEDS = 1 << 32
Answer = TypeVar("Answer")

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), help="Not more than so many faults.")
@click.option("--seed", type=click.IntRange(min=0), help="Which faults come in which order, to whom.  [default: any]")
@click.option("--only", "kinds", multiple=True, metavar="FAULT", help="This fault, as the report calls it; repeatable.")
@click.option("--address", metavar="HOST:PORT,...", default="", help="Of nodes of a cluster that may be broken, "
              "instead of three nodes on this machine.")
@click.option("--yes-break", "cluster_id", metavar="CLUSTER_ID", default="", help="The id of that cluster, as `cluster "
              "status` shows it.")
@click.option("--fault", "faults", multiple=True, metavar="KIND=COMMAND", help="How a fault is made, with {host}, "
              "{address} and {node} for the node that it is for; repeatable.")
@click.option("--undo", "undos", multiple=True, metavar="KIND=COMMAND|FILE", help="How that fault is undone. Alone: do "
              "what is left to be done according to the record of a run that was killed.")
@click.option("--record", type=_FILE, help="Where stands what is to be undone.  [default: verify-SEED.undo]")
@click.option("--clients", type=click.IntRange(min=1), default=2, show_default=True, help="Processes.")
@click.option("--callers", type=click.IntRange(min=1), default=8, show_default=True, help="In each of them.")
@click.option("--progress-s", type=click.FloatRange(min=1), default=60.0, show_default=True,
              help="Callers must go on, and workflows end, so soon after a fault is over.")
@click.option("--json", "json_file", type=_FILE, help="The report, in all detail.")
@click.option("--plot", "plot_file", type=_FILE, help="A picture of it (SVG).")
@click.option("--table", "table_file", type=_FILE, help="A page to which the run adds a section.")
@click.option("--note", default="", help="A sentence for that section.")
@click.option("--history", "history_file", type=_FILE, help="Every operation: JSON lines.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Where all files of the run stay.")
@click.option("--caller-module", hidden=True, default=CALLER)
@click.option("--labourer-module", hidden=True, default=LABOURER)
@click.option("--node-module", hidden=True, default=NODE)
@caller_options
def verify(**options: Any) -> None:
    """Break a cluster on purpose, and check that it keeps its promises.

    Without --address that is one of its own: three nodes in network namespaces, on disks that lose what was not synced.
    It needs root. With --address only those faults are made that you give as commands; each is undone at the end.

    \b
    orchestrator verify --minutes 5
    orchestrator verify --address a.example:7400 --yes-break CLUSTER_ID \\
        --fault kill='ssh {host} systemctl kill -s KILL orchestrator' \\
        --undo kill='ssh {host} systemctl start orchestrator'
    """
    session = current_session()
    if options["undos"] and not options["faults"] and not options["address"]:
        raise click.exceptions.Exit(_undo(session, options["undos"]))
    named = _named(session, options)
    known = [*(KINDS if named is None else named.faults), *CROWD_KINDS]
    if unknown := sorted(set(options["kinds"]) - set(known)):
        raise click.UsageError(f"--only: there is no {unknown[0]!r}; there are {', '.join(known)}")
    if named is None:
        _enter_namespace()
    raise click.exceptions.Exit(_verify(session, options, named))


# -- what was asked for ------------------------------------------------------------------------------------------------


def _named(session: Session, options: dict[str, Any]) -> Named | None:
    if not options["address"]:
        if unwanted := [name for name in ("cluster_id", "faults", "undos", "record") if options[name]]:
            raise click.UsageError(f"without --address there is no {unwanted[0]} to name: it makes its own cluster")
        return None
    faults, undos = _commands(options["faults"], "--fault"), _commands(options["undos"], "--undo")
    if not faults:
        raise click.UsageError("--address takes the faults, too: --fault kill='...' --undo kill='...'")
    if alone := sorted(faults.keys() ^ undos.keys()):
        raise click.UsageError(f"each fault has its --undo, and each --undo its fault; {alone[0]} has one only")
    if not options["cluster_id"]:
        raise click.UsageError("--yes-break CLUSTER_ID is needed: the id of the cluster that may be broken")
    record = options["record"] or Path(f"verify-{_seed(options)}.undo")
    if record.exists():
        message = f"{record} is the record of another run: orchestrator verify --undo {record}"
        raise exits.Failure(message, exits.REJECTED)
    return Named(_connecting(session, options["address"]), options["cluster_id"], faults, undos, Record(record))


def _commands(given: Sequence[str], option: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for each in given:
        kind, equals, command = each.partition("=")
        if not equals or not kind or not command or kind in found:
            raise click.UsageError(f"{option} takes KIND=COMMAND, each kind once, not {each!r}")
        found[kind] = command
    return found


def _connecting(session: Session, addresses: str) -> Connecting:
    found = [address.strip() for address in addresses.split(",") if address.strip()]
    tls = (session.tls_authority, session.tls_certificate, session.tls_key)
    return Connecting(found, session.namespace, tls, session.token or "", session.token_file or "",
                      session.insecure_token)


def _seed(options: dict[str, Any]) -> int:
    if options["seed"] is None:
        options["seed"] = random.randrange(SEEDS)
    return int(options["seed"])


def _enter_namespace() -> None:
    """This process becomes the same command in a network namespace of its own."""
    if namespaces.ENTERED not in os.environ and (reason := namespaces.obstacle()):
        who = "" if os.geteuid() == 0 else " (this needs root)"
        raise exits.Failure(f"no cluster of its own can be made here: {reason}{who}; on one that is there already: "
                            "--address", exits.UNAVAILABLE)
    namespaces.enter([sys.executable, "-m", "orchestrator", *sys.argv[1:]])


# -- the run -----------------------------------------------------------------------------------------------------------


def _verify(session: Session, options: dict[str, Any], named: Named | None) -> int:
    from orchestrator.verify import running  # noqa: PLC0415 - all other commands start without a server

    folder = options["keep"] or Path(tempfile.mkdtemp(prefix="orchestrator-verify-"))
    files = folder / "crowd"
    if files.exists():
        raise exits.Failure(f"{folder} has the files of another run", exits.REJECTED)
    files.mkdir(parents=True)
    talk = Talk(sys.stderr)
    settings = _settings(session, options, files, talk)
    talk.event(f"seed {settings.seed}, {settings.minutes:g} minutes; files are in {folder}")
    kept = options["keep"] is not None
    try:
        program = running.on_own_cluster(settings) if named is None else running.on_named_cluster(settings, named)
        found = _until_signal(program, talk)
        _write(options, found, files)
        kept = kept or bool(found.violations)
    except (WrongCluster, CrowdFailed, LocalClusterError, OrchestratorError, FileExistsError) as error:
        raise _failure(error) from error
    finally:
        if not kept:
            shutil.rmtree(folder)
    if session.as_json:
        session.output.data(found.document())
    else:
        click.echo(report.text(found))
    if kept:
        talk.event(f"all files of the run are in {folder}")
    return _exit_code(found)


def _settings(session: Session, options: dict[str, Any], folder: Path, talk: Talk) -> Settings:
    seed = _seed(options)
    section = Section(options["table_file"], options["note"]) if options["table_file"] else None
    return Settings(
        seed=seed, minutes=options["minutes"], folder=folder, talk=talk, replay=_replay(options),
        rounds_max=options["rounds"] or math.inf, kinds=options["kinds"], clients=options["clients"],
        callers=options["callers"], deadline_s=session.timeout_s, progress_s=options["progress_s"], section=section,
        revision=_revision(), caller_module=options["caller_module"], labourer_module=options["labourer_module"],
        node_module=options["node_module"],
    )


def _revision() -> str:
    """The commit, if this is a checkout; not that of a project in which it is installed."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""
    asked = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True,
                           check=False)
    return asked.stdout.strip()


def _replay(options: dict[str, Any]) -> str:
    """The command that makes the same faults again, in the same order."""
    words = ["orchestrator", "verify", "--seed", str(options["seed"]), "--minutes", f"{options['minutes']:g}"]
    words += ["--rounds", str(options["rounds"])] if options["rounds"] else []
    for name, option in (("kinds", "--only"), ("faults", "--fault"), ("undos", "--undo")):
        words += [word for each in options[name] for word in (option, each)]
    for name, option in (("address", "--address"), ("cluster_id", "--yes-break")):
        words += [option, options[name]] if options[name] else []
    return shlex.join(words)


def _until_signal(program: Coroutine[Any, Any, Answer], talk: Talk) -> Answer:
    """The first Ctrl-C, SIGTERM or SIGHUP ends it in order, with everything undone; more of them change nothing."""

    async def supervised() -> Answer:
        task = asyncio.ensure_future(program)
        asked: list[str] = []

        def stop(name: str) -> None:
            talk.event(f"{name}: " + ("everything is being undone" if not asked else "still undoing"))
            if not asked:
                task.cancel()
            asked.append(name)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop, number.name)
        return await task

    try:
        return asyncio.run(supervised())
    except asyncio.CancelledError:
        raise click.Abort from None


def _failure(error: Exception) -> exits.Failure:
    if isinstance(error, OrchestratorError):
        return exits.of(error)
    code = exits.REJECTED if isinstance(error, WrongCluster | FileExistsError) else exits.NOT_WHOLE
    return exits.Failure(str(error), code)


def _exit_code(found: Report) -> int:
    if found.violations:
        return exits.VIOLATED
    if any(problem.startswith("not ") for problem in found.problems):
        return exits.NOT_UNDONE
    if found.interrupted:
        return exits.INTERRUPTED
    return exits.NOT_WHOLE if found.problems or found.undecided else exits.DONE


def _write(options: dict[str, Any], found: Report, files: Path) -> None:
    """What was asked to be written."""
    if options["json_file"]:
        options["json_file"].write_text(json.dumps(found.document(), indent=2) + "\n", encoding="utf-8")
    if options["plot_file"]:
        options["plot_file"].write_text(plot.svg(found), encoding="utf-8")
    if options["table_file"] and not found.rounds:
        Section(options["table_file"], options["note"]).write(found)
    if options["history_file"]:
        with options["history_file"].open("w", encoding="utf-8") as target:
            sources = [file.open(encoding="utf-8") for file in sorted(files.glob("*.client"))]
            try:
                target.writelines(heapq.merge(*sources, key=lambda line: json.loads(line)["at"]))
            finally:
                for source in sources:
                    source.close()


def _undo(session: Session, given: Sequence[str]) -> int:
    from orchestrator.verify import running  # noqa: PLC0415 - all other commands start without a server

    if len(given) != 1 or "=" in given[0]:
        raise click.UsageError("alone, --undo takes one file: the record of a run that was killed")
    try:
        failed = asyncio.run(running.undo(Path(given[0]), _connecting(session, "")))
    except RecordUnusable as error:
        raise exits.Failure(str(error), exits.USAGE) from error
    for each in failed:
        click.echo(each, err=True)
    if failed:
        return exits.NOT_UNDONE
    click.echo("everything is undone, and what the run had made is removed")
    return exits.DONE
