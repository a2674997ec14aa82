"""Every setting of a node: its unit, its default and its limits.

`load` merges a TOML file, the environment (`ORCHESTRATOR_<NAME>`) and flags, the later winning, and refuses unknown
names, values of the wrong type and values outside their limits with a `ConfigError` that a person can act on.
A `Config` that exists is valid.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

ENVIRONMENT_PREFIX = "ORCHESTRATOR_"
# Read by the command line itself, not settings of a node.
_NOT_SETTINGS = {
    "ORCHESTRATOR_CONFIG", "ORCHESTRATOR_ENDPOINTS", "ORCHESTRATOR_NAMESPACE",
    "ORCHESTRATOR_TOKEN", "ORCHESTRATOR_TOKEN_FILE",
    "ORCHESTRATOR_TLS_AUTHORITY", "ORCHESTRATOR_TLS_CERTIFICATE", "ORCHESTRATOR_TLS_KEY",
}
# What Kubernetes puts into every container when a service is called orchestrator or orchestrator-something.
_KUBERNETES = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_GROUP = re.compile(r"[A-Za-z0-9_.:-]{1,63}")
_VARIABLE_PREFIX = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)?")
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_EVERY_INTERFACE = {"", "0.0.0.0", "::", "*"}


class ConfigError(Exception):
    """The configuration is wrong; the message names the setting, where it came from and what is allowed."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """`host:port`, `[v6]:port` or `:port` (every interface); ValueError otherwise."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r} is not host:port (an IPv6 address is written [address]:port)")
        if not colon or not (port.isascii() and port.isdigit()) or not 1 <= int(port) <= 65535:
            raise ValueError(f"{text!r} is not host:port with a port from 1 to 65535")
        return cls(host, int(port))

    @property
    def is_every_interface(self) -> bool:
        return self.host in _EVERY_INTERFACE

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it; of another name than localhost that can't be known."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def _setting(about: str, default: Any = dataclasses.MISSING, **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"about": about, **limits})


@dataclass(frozen=True, kw_only=True)
class Config:
    node: str = _setting("the name of this node, as given to `orchestrator init`")
    data_dir: Path = _setting(  # noqa: RUF009 - it calls dataclasses.field
        "where this node keeps its data; in a file, relative to that file")

    grpc_listen: str = _setting("host:port on which clients and workers are served", "127.0.0.1:7400", address=True)
    grpc_advertise: str = _setting("host:port at which clients reach this node; empty: as grpc_listen", "",
                                   address=True)
    peer_listen: str = _setting("host:port on which the other nodes are served", "127.0.0.1:7500", address=True)
    peer_advertise: str = _setting("host:port at which the other nodes reach this one; empty: as peer_listen", "",
                                   address=True)
    peer_tls_certificate: str = _setting("PEM file, relative to this one: certificate of this node for the host in "
                                         "peer_advertise; empty: no TLS between nodes", "", file=True)
    peer_tls_key: str = _setting("PEM file: the key of peer_tls_certificate, without a password", "", file=True)
    peer_tls_authority: str = _setting("PEM file: who must have signed a node's certificate", "", file=True)
    grpc_tls_certificate: str = _setting("PEM file, relative to this one: certificate of this node for the host in "
                                         "grpc_advertise, for clients and for the nodes that it calls; empty: no TLS "
                                         "for gRPC", "", file=True)
    grpc_tls_key: str = _setting("PEM file: the key of grpc_tls_certificate, without a password", "", file=True)
    grpc_tls_authority: str = _setting("PEM file: who must have signed the certificates of the nodes that this one "
                                       "calls", "", file=True)
    grpc_tls_client_authority: str = _setting("PEM file: who must have signed the certificates that clients, and nodes "
                                              "that call, have to show; empty: they need none", "", file=True)
    metrics_listen: str = _setting("host:port on which Prometheus is served; empty: nowhere", "", address=True)
    metrics_tls: str = _setting("on: https, with grpc_tls_certificate; off: http; auto: https if metrics_listen is "
                                "beyond loopback", "auto", choices=("auto", "on", "off"))
    insecure: bool = _setting("serve beyond loopback without TLS: whoever reaches a port can read and change all",
                              False)

    heartbeat_ms: int = _setting("how often the leader makes itself heard", 50, min=5, max=5_000)
    election_timeout_min_ms: int = _setting("silence of the leader after which the first node may stand for election; "
                                            "more than three heartbeats", 500, min=20, max=30_000)
    election_timeout_max_ms: int = _setting("silence after which every node stands for election; above the minimum",
                                            750, min=40, max=60_000)
    max_clock_skew_ms: int = _setting("a node whose clock is further from the members' median does not lead while "
                                      "another can",
                                      1_000, min=10, max=60_000)
    clock_offset_ms: int = _setting("for tests only: added to what this machine's wall clock says", 0,
                                    min=-100 * 365 * 86_400_000, max=100 * 365 * 86_400_000)

    entry_close_bytes: int = _setting("a log entry takes no more commands at this size", 256 * KIB,
                                      min=4 * KIB, max=MIB)
    entry_close_commands: int = _setting("a log entry takes no more commands at this number", 1_000, min=1, max=10_000)
    entries_in_flight: int = _setting("log entries under replication at once; more than 1 helps when a commit takes "
                                      "over 3 ms", 1, min=1, max=4)
    journal_segment_bytes: int = _setting("size of one journal file", 64 * MIB, min=64 * KIB, max=GIB)
    journal_tail_entries: int = _setting("applied entries kept for slow followers", 10_000, min=0, max=100_000_000)
    journal_tail_bytes: int = _setting("... but not more than this", 256 * MIB, min=64 * KIB, max=64 * GIB)

    flush_interval_ms: int = _setting("how often the state is written to the database", 1_000, min=1, max=60_000)
    checkpoint_interval_ms: int = _setting("how often the nodes compare what they hold, while anything happens", 30_000,
                                           min=100, max=3_600_000)
    behaviour_raise_after_ms: int = _setting("raise the behaviour level by itself when all members have known a higher "
                                             "one for so long; 0: only by `orchestrator cluster raise-behaviour`", 0,
                                             min=0, max=365 * 86_400_000)
    scrub_interval_ms: int = _setting("every row of the database is read and checked once in this time, slowly, also "
                                      "what nobody asks for; 0: never", 86_400_000, min=0, max=365 * 86_400_000)
    hot_executions_max: int = _setting("executions held in memory", 50_000, min=100, max=10_000_000)
    hot_bytes_max: int = _setting("memory for executions, estimated", 512 * MIB, min=16 * MIB, max=1024 * GIB)

    max_queue_bytes: int = _setting("commands that wait to be replicated", 64 * MIB, min=MIB, max=4 * GIB)
    max_queue_age_ms: int = _setting("starts are refused while a command waits for longer than this",
                                     2_000, min=10, max=60_000)
    start_delay_ms: int = _setting("while commands take longer than this, and than four times what they take at best, "
                                   "fewer starts are taken at once", 40, min=1, max=60_000)
    max_pending_starts: int = _setting("starts that wait to be replicated; more are refused", 10_000,
                                       min=1, max=1_000_000)
    max_live_executions: int = _setting("starts are refused above this number", 1_000_000, min=1, max=1_000_000_000)
    max_dirty_bytes: int = _setting("starts are refused while more than this awaits its flush",
                                    256 * MIB, min=MIB, max=16 * GIB)
    min_free_disk_bytes: int = _setting("starts are refused while the disk of data_dir has less room",
                                        GIB, min=0, max=1024 * GIB)

    call_slots: int = _setting("calls of tasks (HTTP, GRPC) that this node makes at once; 0: none", 64,
                               min=0, max=10_000)
    script_slots: int = _setting("scripts, jq and JSON schemas that this node takes on at once; 0: none", 32,
                                 min=0, max=10_000)
    sandbox_processes_max: int = _setting("processes that evaluate scripts, jq and JSON schemas, about 25 MB each, "
                                          "started when they are needed", 4, min=1, max=256)
    system_drain_ms: int = _setting("a node that stops gives its system tasks this long to end, then hands them to "
                                    "another node", 10_000, min=0, max=600_000)

    task_environment_prefix: str = _setting("workers get variables of this node's environment that begin so, where the "
                                            "runtimeMetadata of their task names what follows; empty: none",
                                            "CONDUCTOR_ENV_")

    secret_keys_file: str = _setting("file, relative to this one: keys of secrets, one per line, of which the first "
                                     "seals and all open; read again when it changes; empty: no secrets", "", file=True)
    access_file: str = _setting("TOML file that says who may do what, see orchestrator/access/ACCESS.md; empty: "
                                "everybody may do everything", "", file=True)
    node_secret_file: str = _setting("file with at least 32 random characters, the same on all nodes, by which they "
                                     "know each other; needed with access_file", "", file=True)
    audit_file: str = _setting("file to which a line is added for each change by an operator or admin, and each "
                               "refusal; empty: to the log", "", file=True)
    client_requests_per_second: int = _setting("calls, and starts and waits on streams, of one client; more are "
                                               "refused; 0: no limit", 20_000, min=0, max=10_000_000)
    client_requests_burst: int = _setting("... and how many it may make at once after a pause", 40_000,
                                          min=1, max=10_000_000)
    client_streams_max: int = _setting("streams that one client may have open at once; 0: no limit", 5_000,
                                       min=0, max=1_000_000)
    client_calls_max: int = _setting("calls that one client may have open at once, streams and waits among them; 0: no "
                                     "limit", 10_000, min=0, max=1_000_000)
    client_connections_max: int = _setting("connections that one address may have, all clients on it together; of "
                                           "more the newest are ended; 0: no limit", 2_500, min=0, max=1_000_000)
    client_read_timeout_ms: int = _setting("a stream is ended whose client does not take what it is sent for so long; "
                                           "0: never", 30_000, min=0, max=3_600_000)
    client_unread_bytes_max: int = _setting("answers that one client has not taken yet, in this node's memory; above "
                                            "it the client's calls are refused and its streams ended; 0: no limit",
                                            128 * MIB, min=0, max=64 * GIB)
    grpc_unread_bytes_max: int = _setting("... and those of all clients; then of clients with more than their share",
                                          512 * MIB, min=0, max=1024 * GIB)
    grpc_calls_max: int = _setting("calls that all clients may have open at once; 0: no limit", 20_000,
                                   min=0, max=10_000_000)
    grpc_connections_max: int = _setting("connections of clients; more are not accepted", 5_000, min=10, max=1_000_000)
    grpc_connection_calls_max: int = _setting("calls at once on one connection; further ones wait at the client", 2_000,
                                              min=10, max=1_000_000)
    grpc_request_bytes_max: int = _setting("one message of a client; larger ones are refused", 16 * MIB,
                                           min=64 * KIB, max=GIB)

    redis_endpoints: str = _setting("host:port of Redis, for events and large payloads; with redis_sentinel_master the "
                                    "host:port of each Sentinel, with commas; empty: no Redis", "")
    redis_sentinel_master: str = _setting("the name by which the Sentinels know the master; empty: no Sentinels", "")
    redis_database: int = _setting("the number of the database", 0, min=0, max=1_000_000)
    redis_username: str = _setting("user of the ACL of Redis; empty: default", "")
    redis_password_file: str = _setting("file, relative to this one: the password at Redis, read again with each "
                                        "connection; empty: none", "", file=True)
    redis_sentinel_username: str = _setting("user of the ACL of the Sentinels; empty: default", "")
    redis_sentinel_password_file: str = _setting("file: the password at the Sentinels; empty: none", "", file=True)
    redis_tls: bool = _setting("Redis, and the Sentinels, are called with TLS", False)
    redis_tls_ca_file: str = _setting("PEM file: who must have signed their certificates, read again with each "
                                      "connection; empty: whom this machine believes", "", file=True)
    redis_tls_cert_file: str = _setting("PEM file: certificate to show to them; empty: none", "", file=True)
    redis_tls_key_file: str = _setting("PEM file: the key of redis_tls_cert_file, without a password", "", file=True)
    redis_timeout_ms: int = _setting("a connection, or an answer, that takes longer has failed", 2_000,
                                     min=50, max=60_000)
    redis_stream_length_max: int = _setting("entries that a stream keeps to which workflows publish, about; the oldest "
                                            "are dropped; 0: no limit", 1_000_000, min=0, max=1_000_000_000_000)
    redis_group: str = _setting("the names of consumer groups, and of keys of large values, begin so; clusters that "
                                "share a Redis need different ones", "orchestrator")

    blob_store: str = _setting("where inputs and outputs above 256 KiB are kept, outside the log: directory (which all "
                               "nodes share), redis, or none: they are refused. The same on all nodes", "none",
                               choices=("none", "directory", "redis"))
    blob_directory: str = _setting("the directory of blob_store, relative to this file; it must be there, on a file "
                                   "system that all nodes of the cluster see, and no other cluster", "", file=True)
    blob_bytes_max: int = _setting("how large an input or output may be with a blob_store", 8 * MIB,
                                   min=512 * KIB, max=15 * MIB)

    log_format: str = _setting("human or json", "human", choices=("human", "json"))
    log_level: str = _setting("debug, info, warning or error", "info", choices=("debug", "info", "warning", "error"))

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))
        if not _NODE_NAME.fullmatch(self.node):
            raise ConfigError(f"node must be 1 to 63 letters, digits, '-', '_' or '.', not {self.node!r}")
        self._check_task_environment()
        for listen, advertise in (("grpc_listen", "grpc_advertise"), ("peer_listen", "peer_advertise")):
            self._check_addresses(listen, advertise)
        self._check_together("peer_tls_certificate", "peer_tls_key", "peer_tls_authority")
        self._check_together("grpc_tls_certificate", "grpc_tls_key", "grpc_tls_authority")
        self._check_exposure()
        self._check_access()
        self._check_redis()
        self._check_blobs()
        _check_above("election_timeout_min_ms", self.election_timeout_min_ms, "3 * heartbeat_ms", 3 * self.heartbeat_ms)
        _check_above("election_timeout_max_ms", self.election_timeout_max_ms,
                     "election_timeout_min_ms", self.election_timeout_min_ms)
        _check_above("max_queue_bytes", self.max_queue_bytes, "entry_close_bytes", self.entry_close_bytes)

    def _check_task_environment(self) -> None:
        prefix = self.task_environment_prefix
        if not _VARIABLE_PREFIX.fullmatch(prefix):
            raise ConfigError("task_environment_prefix must be letters, digits and '_', the first no digit, not "
                              f"{prefix!r}")
        # Variables of this name are settings, of which an unknown one is an error.
        if prefix.startswith(ENVIRONMENT_PREFIX):
            raise ConfigError(f"task_environment_prefix must not begin with {ENVIRONMENT_PREFIX}, as settings do: "
                              f"{prefix!r}")

    def _check_access(self) -> None:
        if self.access_file and not (self.node_secret_file or self.grpc_tls_client_authority):
            raise ConfigError("node_secret_file must be set, too, as access_file is: by it the nodes let each other in "
                              "(or grpc_tls_client_authority, and a role node for their certificates)")
        is_open = not (self.access_file or self.grpc_tls_client_authority or self.insecure)
        if is_open and not Address.parse(self.grpc_listen).is_loopback:
            raise ConfigError(f"grpc_listen is {self.grpc_listen}, beyond loopback, where everybody may do everything: "
                              "set access_file (who may do what), or grpc_tls_client_authority (who has a certificate "
                              "may do everything); where every machine that can reach the port is trusted with "
                              "everything, insecure = true (--insecure)")

    def _check_redis(self) -> None:
        for needs, names in (
            ("redis_endpoints", ("redis_sentinel_master", "redis_username", "redis_password_file", "redis_tls")),
            ("redis_sentinel_master", ("redis_sentinel_username", "redis_sentinel_password_file")),
            ("redis_password_file", ("redis_username",)),
            ("redis_sentinel_password_file", ("redis_sentinel_username",)),
            ("redis_tls", ("redis_tls_ca_file", "redis_tls_cert_file", "redis_tls_key_file")),
        ):
            for name in names:
                if getattr(self, name) and not getattr(self, needs):
                    raise ConfigError(f"{needs} must be set, too, as {name} is")
        self._check_together("redis_tls_cert_file", "redis_tls_key_file")
        if not _GROUP.fullmatch(self.redis_group):
            raise ConfigError("redis_group must be 1 to 63 letters, digits, '-', '_', '.' or ':', not "
                              f"{self.redis_group!r}")
        for address in self.redis_addresses:
            if address.is_every_interface:
                raise ConfigError(f"redis_endpoints: {str(address)!r} is every interface, and nothing to call")
        if len(self.redis_addresses) > 1 and not self.redis_sentinel_master:
            raise ConfigError(f"redis_endpoints has {len(self.redis_addresses)} addresses, which is for Sentinels: set "
                              "redis_sentinel_master, or name one Redis (a Redis Cluster is not supported)")

    def _check_blobs(self) -> None:
        for store, needed in (("directory", "blob_directory"), ("redis", "redis_endpoints")):
            if self.blob_store == store and not getattr(self, needed):
                raise ConfigError(f"{needed} must be set, too, as blob_store is {store}")
        if self.blob_directory and self.blob_store != "directory":
            raise ConfigError(f"blob_directory is set, and blob_store is {self.blob_store}: set it to directory")
        if self.blob_store != "none":
            # With room for what else a message has.
            _check_above("grpc_request_bytes_max", self.grpc_request_bytes_max, "blob_bytes_max", self.blob_bytes_max)

    def _check_addresses(self, listen: str, advertise: str) -> None:
        if not getattr(self, listen):
            raise ConfigError(f"{listen} must be host:port, not empty")
        told = getattr(self, advertise) or getattr(self, listen)
        if Address.parse(told).is_every_interface:
            raise ConfigError(f"{advertise} must be set to an address that others can reach: "
                              f"{told!r} is every interface")

    def _check_together(self, *names: str) -> None:
        given = [name for name in names if getattr(self, name)]
        missing = [name for name in names if name not in given]
        if given and missing:
            raise ConfigError(f"{missing[0]} must be set, too, as {given[0]} is: {', '.join(names)} go together")

    def _check_exposure(self) -> None:
        """Beyond loopback only with TLS, unless it is said that this is meant."""
        if self.grpc_tls_client_authority and not self.grpc_tls_certificate:
            raise ConfigError("grpc_tls_client_authority needs grpc_tls_certificate, grpc_tls_key and "
                              "grpc_tls_authority: clients show certificates over TLS only")
        if self.metrics_tls == "on" and not self.grpc_tls_certificate:
            raise ConfigError("metrics_tls is on, and needs grpc_tls_certificate, grpc_tls_key and grpc_tls_authority")
        for listen in self.exposed:
            tls = "grpc_tls_certificate" if listen != "peer_listen" else "peer_tls_certificate"
            instead = ', or metrics_tls = "off" to serve metrics without' if listen == "metrics_listen" else ""
            if not self.insecure:
                raise ConfigError(f"{listen} is {getattr(self, listen)}, beyond loopback, and there is no TLS: set "
                                  f"{tls} (`orchestrator tls init` makes certificates){instead}; where every machine "
                                  "that can reach the port is trusted with everything, insecure = true (--insecure)")

    @property
    def exposed(self) -> list[str]:
        """The settings of ports that serve beyond loopback without TLS, and should not unless that is meant.

        Metrics, which hold no secrets, are among them only while nobody has decided about them.
        """
        ports = {"peer_listen": bool(self.peer_tls_certificate), "grpc_listen": bool(self.grpc_tls_certificate)}
        if self.metrics_tls == "auto" and self.metrics_listen:
            ports["metrics_listen"] = bool(self.grpc_tls_certificate)
        return [name for name, tls in ports.items() if not tls and not Address.parse(getattr(self, name)).is_loopback]

    @property
    def metrics_with_tls(self) -> bool:
        """Whether Prometheus is served by https."""
        beyond = self.metrics_address is not None and not self.metrics_address.is_loopback
        return self.metrics_tls == "on" or (self.metrics_tls == "auto" and beyond and bool(self.grpc_tls_certificate))

    @property
    def grpc_address(self) -> Address:
        """Where clients reach this node."""
        return Address.parse(self.grpc_advertise or self.grpc_listen)

    @property
    def grpc_local_address(self) -> Address:
        """Where this node reaches itself, whatever it advertises."""
        listen = Address.parse(self.grpc_listen)
        if not listen.is_every_interface:
            return listen
        return Address("::1" if ":" in listen.host else "127.0.0.1", listen.port)

    @property
    def peer_address(self) -> Address:
        """Where the other nodes reach this one."""
        return Address.parse(self.peer_advertise or self.peer_listen)

    @property
    def redis_addresses(self) -> tuple[Address, ...]:
        """Of one Redis, or of Sentinels; none where there is no Redis."""
        try:
            return tuple(Address.parse(each.strip()) for each in self.redis_endpoints.split(",") if each.strip())
        except ValueError as error:
            raise ConfigError(f"redis_endpoints: {error}") from None

    @property
    def metrics_address(self) -> Address | None:
        """Where Prometheus is served, if it is."""
        return Address.parse(self.metrics_listen) if self.metrics_listen else None


SETTINGS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(Config)}


def load(path: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """Merges the three sources; a flag that is None was not given."""
    values: dict[str, Any] = {}
    if path is not None:
        values |= _from_file(path)
    values |= _from_environment(environment)
    values |= {name: _parse(name, value, f"flag --{name.replace('_', '-')}")
               for name, value in flags.items() if value is not None}
    for name, field in SETTINGS.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"{name} is not set: {field.metadata['about']} (in the file, as "
                              f"{ENVIRONMENT_PREFIX}{name.upper()} or as --{name.replace('_', '-')})")
    return Config(**values)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    values = {}
    for name, value in document.items():
        if name not in SETTINGS:
            raise ConfigError(f"{path}: unknown setting {name!r}{_nearest(name, SETTINGS)}")
        values[name] = _parse(name, value, str(path))
    if "data_dir" in values:
        values["data_dir"] = path.resolve().parent / values["data_dir"]
    for name, value in values.items():
        if SETTINGS[name].metadata.get("file") and value:
            values[name] = str(path.resolve().parent / value)
    return values


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    known = {ENVIRONMENT_PREFIX + name.upper(): name for name in SETTINGS}
    for variable, text in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable in _NOT_SETTINGS or _KUBERNETES.search(variable):
            continue
        if variable not in known:
            raise ConfigError(f"unknown environment variable {variable}{_nearest(variable, known)}")
        values[known[variable]] = _parse(known[variable], text, f"environment variable {variable}")
    return values


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    return f"; the nearest known one is {found[0]!r}" if found else ""


def _parse(name: str, value: Any, source: str) -> Any:
    """The value in the setting's own type; text is parsed, because the environment and flags have nothing else."""
    kind = SETTINGS[name].type
    if kind == "int":
        if isinstance(value, str):
            try:
                return int(value)
            except ValueError:
                raise ConfigError(f"{source}: {name} must be a whole number, not {value!r}") from None
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{source}: {name} must be a whole number, not {value!r}")
        return value
    if kind == "bool":
        found = _BOOLEANS.get(value.lower()) if isinstance(value, str) else value
        if not isinstance(found, bool):
            raise ConfigError(f"{source}: {name} must be true or false, not {value!r}")
        return found
    if not isinstance(value, str | Path):
        raise ConfigError(f"{source}: {name} must be text, not {value!r}")
    if kind == "Path":
        if not str(value):
            raise ConfigError(f"{source}: {name} must not be empty")
        return Path(value)
    return str(value)


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    limits = field.metadata
    if field.type == "int" and not limits["min"] <= value <= limits["max"]:
        raise ConfigError(f"{field.name} must be from {limits['min']} to {limits['max']}, not {value}")
    if "choices" in limits and value not in limits["choices"]:
        raise ConfigError(f"{field.name} must be one of {', '.join(limits['choices'])}, not {value!r}")
    if "address" in limits and value:
        try:
            Address.parse(value)
        except ValueError as error:
            raise ConfigError(f"{field.name}: {error}") from None


def _check_above(name: str, value: int, bound_name: str, bound: int) -> None:
    if value <= bound:
        raise ConfigError(f"{name} must be above {bound_name}, that is at least {bound + 1}, not {value}")
