"""`orchestrator tls`: certificates for a test or a small deployment, and a look at any."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import exits
from orchestrator.cli.output import Output, stacked, table
from orchestrator.tls.authority import Authority, AuthorityError, Made
from orchestrator.tls.certificate import Certificate

_DIRECTORY = click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
_DAYS = click.option("--days", type=click.IntRange(1, 36_500), default=365, show_default=True,
                     help="How long the certificates are valid; never longer than the authority.")
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for scripts.")


def _node(value: str) -> tuple[str, list[str]]:
    name, equals, hosts = value.partition("=")
    found = [host.strip() for host in hosts.split(",") if host.strip()]
    if not name or not equals or not found:
        raise click.BadParameter(f"{value!r} is not NAME=HOST,...: the hosts and addresses at which it is reached")
    return name, found


@click.group()
def tls() -> None:
    """Make certificates with an authority of your own, and look at certificates.

    deploy/README.md walks through it for three nodes.
    """


@tls.command()
@_DIRECTORY
@click.option("--node", "nodes", multiple=True, required=True, type=_node, metavar="NAME=HOST,...",
              help="A node, as in `orchestrator init`, and the host names and addresses at which others reach it.")
@click.option("--client", "clients", multiple=True, metavar="NAME", help="Somebody who calls the nodes.")
@click.option("--name", default="orchestrator", show_default=True, help="What the authority calls itself.")
@_DAYS
@_JSON
def init(directory: Path, nodes: tuple[tuple[str, list[str]], ...], clients: tuple[str, ...], name: str, days: int,
         as_json: bool) -> None:
    """Make an authority, and certificates for nodes and clients, in a directory.

    Nothing that is there is overwritten. Who has authority.key can make certificates that all nodes believe: keep it
    where no node is.
    """
    with _failing():
        _check_all(directory, nodes, clients)
        authority = Authority.create(directory, name, _now())
        made = [*_nodes(authority, nodes, days), *_clients(authority, clients, days)]
    _show(as_json, f"made an authority, and {_counted(made)} for {days} days, in {directory}", authority, made)


@tls.command()
@_DIRECTORY
@click.argument("nodes", nargs=-1, required=True, type=_node, metavar="NAME=HOST,...")
@_DAYS
@_JSON
def node(directory: Path, nodes: tuple[tuple[str, list[str]], ...], days: int, as_json: bool) -> None:
    """Make certificates of further nodes, with the authority in the directory."""
    with _failing():
        authority = Authority.load(directory)
        for name, hosts in nodes:
            authority.check(name, hosts)
        made = _nodes(authority, nodes, days)
    _show(as_json, f"made {_counted(made)} for {days} days, in {directory}", authority, made)


@tls.command()
@_DIRECTORY
@click.argument("clients", nargs=-1, required=True, metavar="NAME...")
@_DAYS
@_JSON
def client(directory: Path, clients: tuple[str, ...], days: int, as_json: bool) -> None:
    """Make certificates of further clients, with the authority in the directory."""
    with _failing():
        authority = Authority.load(directory)
        for name in clients:
            authority.check(name)
        made = _clients(authority, clients, days)
    _show(as_json, f"made {_counted(made)} for {days} days, in {directory}", authority, made)


@tls.command()
@_DIRECTORY
@click.argument("names", nargs=-1, metavar="[NAME...]")
@_DAYS
@_JSON
def renew(directory: Path, names: tuple[str, ...], days: int, as_json: bool) -> None:
    """Make new certificates and keys for what the old ones are for, in the same files; without names, all.

    Copy them over those of the nodes, which take them within seconds.
    """
    with _failing():
        authority = Authority.load(directory)
        made = [authority.renew(name, _now(), days) for name in names or authority.names()]
    _show(as_json, f"renewed {_counted(made)} for {days} days, in {directory}", authority, made, hints=False)


@tls.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@_JSON
def show(files: tuple[Path, ...], as_json: bool) -> None:
    """Say of certificates whom they are for, who signed them, and until when they are valid."""
    found = [(file, certificate) for file in files for certificate in _certificates(file)]
    now = _now()
    rows = [(str(file), each.common_name, ", ".join(each.names), _use(each), each.issuer, _until(each, now))
            for file, each in found]
    Output(as_json=as_json).show(
        [_document(file, each) for file, each in found],
        table(("FILE", "NAME", "FOR", "USE", "SIGNED BY", "UNTIL (UTC)"), rows))


class _failing:
    """Errors of making certificates as those of the command."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, AuthorityError):
            raise exits.Failure(str(error), exits.USAGE) from error
        if isinstance(error, OSError):
            raise exits.Failure(f"{error.filename}: {error.strerror}", exits.FAILED) from error


def _check_all(directory: Path, nodes: Iterable[tuple[str, list[str]]], clients: Iterable[str]) -> None:
    """Before the first file is written."""
    named = [*nodes, *((name, list[str]()) for name in clients)]
    for name, hosts in named:
        Authority.check_name(directory, name, hosts)
    twice = {name for name, _ in named if [each for each, _ in named].count(name) > 1}
    if twice:
        raise AuthorityError(f"{sorted(twice)[0]} is named twice")


def _nodes(authority: Authority, nodes: Iterable[tuple[str, list[str]]], days: int) -> list[Made]:
    return [authority.sign_node(name, hosts, _now(), days) for name, hosts in nodes]


def _clients(authority: Authority, clients: Iterable[str], days: int) -> list[Made]:
    return [authority.sign_client(name, _now(), days) for name in clients]


def _counted(made: list[Made]) -> str:
    return "1 certificate" if len(made) == 1 else f"{len(made)} certificates"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)  # noqa: TID251 - a certificate's dates are the calendar's


def _show(as_json: bool, done: str, authority: Authority, made: list[Made], *, hints: bool = True) -> None:
    now = _now()
    rows = [(each.certificate_file.name, each.key_file.name, ", ".join(each.certificate.names), _use(each.certificate),
             _until(each.certificate, now)) for each in made]
    document = {"authority": str(authority.file), "made": [
        {**_document(each.certificate_file, each.certificate), "key_file": str(each.key_file)} for each in made]}
    shown = [done, "", table(("CERTIFICATE", "KEY", "FOR", "USE", "UNTIL (UTC)"), rows)]
    if hints:
        shown += [line for each in made[:1] if each.certificate.for_servers for line in _settings(authority, each)]
        clients = [each for each in made if not each.certificate.for_servers]
        shown += [line for each in clients[:1] for line in _environment(authority, each)]
    Output(as_json=as_json).show(document, stacked(*shown))


def _settings(authority: Authority, made: Made) -> Iterator[str]:
    yield ""
    yield f"The configuration of node {made.certificate.common_name}, and of the others alike, in this folder:"
    yield ""
    files = {"certificate": made.certificate_file, "key": made.key_file, "authority": authority.file}
    for port in ("peer", "grpc"):
        yield from (f'{port}_tls_{what} = "{file}"' for what, file in files.items())
    yield f'grpc_tls_client_authority = "{authority.file}"  # clients must show a certificate; without: need none'


def _environment(authority: Authority, made: Made) -> Iterator[str]:
    yield ""
    yield f"The environment of {made.certificate.common_name}:"
    yield ""
    files = {"AUTHORITY": authority.file, "CERTIFICATE": made.certificate_file, "KEY": made.key_file}
    yield from (f"export ORCHESTRATOR_TLS_{what}={file.resolve()}" for what, file in files.items())


def _certificates(file: Path) -> list[Certificate]:
    try:
        return Certificate.all_of(file.read_bytes())
    except OSError as error:
        raise exits.Failure(f"{file}: {error.strerror}", exits.FAILED) from error
    except ValueError:
        raise exits.Failure(f"{file} holds no certificate in PEM", exits.USAGE) from None


def _use(certificate: Certificate) -> str:
    if certificate.is_authority:
        return "authority"
    uses = {"server": certificate.for_servers, "client": certificate.for_clients}
    return ", ".join(name for name, fits in uses.items() if fits)


def _until(certificate: Certificate, now: datetime.datetime) -> str:
    left = f"{round((certificate.ends - now) / datetime.timedelta(days=1))} days" if certificate.ends > now else "ENDED"
    return f"{certificate.ends:%Y-%m-%d %H:%M} ({left})"


def _document(file: Path, certificate: Certificate) -> dict[str, Any]:
    return {
        "file": str(file), "name": certificate.common_name, "for": list(certificate.names), "use": _use(certificate),
        "signed_by": certificate.issuer, "serial_number": f"{certificate.serial_number:x}",
        "begins": certificate.begins.isoformat(), "ends": certificate.ends.isoformat(),
    }
