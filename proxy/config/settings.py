"""What a configuration comes to: frozen values for the rest of the house.

Decides their shape. Leaves to others what may stand in a file (``form``) and what goes together (``loading``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from proxy.access import Rule
    from proxy.limits import Limits
    from router.cluster import Cluster, Database, Placement, TableName, Vouch

SHARD_LOGINS = ("password", "trust")
DEFAULT_PORT = 6432
READ_FROM = ("primary", "prefer_replica", "replica")
CONSOLE_DATABASE = "pgchorus"


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Auth:
    """How clients prove who they are. ``users`` are clear passwords or SCRAM verifiers, by role.

    The first of ``rules`` that fits a client names the method; ``method`` is for those whom none fits.
    ``shards`` says how the clients' roles log in to the shards: with the same password, or by trust (the shards let the
    proxy in: a private network, certificates in the DSN).
    """

    method: str
    users: Mapping[str, str] = field(default_factory=dict, repr=False)
    shards: str = "password"
    rules: tuple[Rule, ...] = ()

    @property
    def passwords(self) -> Mapping[str, str]:
        """Passwords for logging in to the shards, by role."""
        return {} if self.shards == "trust" else self.users


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS towards clients: files in PEM. ``key`` may stand in the certificate's file."""

    certificate: Path
    key: Path | None = None
    client_ca: Path | None = None
    minimum_version: str = "1.2"


@dataclass(frozen=True, slots=True)
class Console:
    """Who may use the console: ``admins`` everything, ``readers`` SHOW."""

    admins: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """What is logged, and how. ``slow_ms``: statements that take longer get a line; None: none does."""

    level: str = "info"
    format: str = "people"
    slow_ms: float | None = None
    connections: bool = True
    errors: bool = True

    @property
    def slow_s(self) -> float:
        """The same in seconds; endless for none."""
        return inf if self.slow_ms is None else self.slow_ms / 1000


@dataclass(frozen=True, slots=True)
class TracingTo:
    """Where traces go: an OTLP endpoint over HTTP. ``sample``: the share of statements that name no context."""

    endpoint: str
    sample: float = 0.0
    service: str = "pgchorus"


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """One logical database: what the router knows of it, and its shards' DSNs in the same order.

    ``read_from``: where read-only transactions of its sessions go, unless they say otherwise.
    """

    logical: Database
    dsns: tuple[str, ...] = field(repr=False)
    read_from: str = READ_FROM[0]


@dataclass(frozen=True, slots=True)
class Config:
    """All that one proxy is told. ``cluster`` and ``databases`` have the same databases under the same names."""

    file: str
    cluster: Cluster
    databases: Mapping[str, DatabaseConfig]
    listen: Address
    metrics: Address | None
    workers: int
    auth: Auth
    limits: Limits
    tls: Tls | None = None
    console: Console = field(default_factory=Console)
    log: Log = field(default_factory=Log)
    tracing: TracingTo | None = None
    handover: Path | None = None


@dataclass(frozen=True, slots=True)
class Tables:
    """Where the rows of tables live, and what is vouched for functions: a database's part of the configuration."""

    placements: Mapping[TableName, Placement]
    functions: Mapping[str, Vouch]
    slots: int
