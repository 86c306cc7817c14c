"""Where a shard is: a value made from the configuration.

Decides only which login goes with which password. Reaching the server is lending.py's, everything about rows the
router's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

from proxy.config_values import dsn_target
from proxy.shards.hosts import HostAddress, Place


@dataclass(frozen=True, slots=True)
class ShardEndpoint:
    """One shard's name, its index in the database's tuple of shards, and its asyncpg DSN (several hosts allowed).

    The DSN's own user is the role of the proxy's control work; clients' links log in as the client's role.
    """

    name: str
    index: int
    dsn: str = field(repr=False)  # holds a password
    #: Which of several hosts is the primary now (finder.py). With one host nobody asks.
    place: Place = field(default_factory=Place, repr=False, compare=False)

    @property
    def addresses(self) -> tuple[HostAddress, ...]:
        """Return the servers that the DSN names."""
        return tuple(HostAddress(unquote(host).strip("[]"), port) for host, port in dsn_target(self.dsn)[0])

    @property
    def has_several(self) -> bool:
        """Whether the primary is one of several servers, and has to be found."""
        return len(self.addresses) > 1

    @property
    def user(self) -> str | None:
        """Return the role that the DSN names, if it names one."""
        parts = urlsplit(self.dsn)
        userinfo, at, _ = parts.netloc.rpartition("@")
        if at and userinfo.partition(":")[0]:
            return unquote(userinfo.partition(":")[0])
        return parse_qs(parts.query).get("user", [None])[-1]

    @property
    def database(self) -> str | None:
        """Return the physical database that the DSN names; like libpq, its user's own if it names none."""
        parts = urlsplit(self.dsn)
        query = parse_qs(parts.query)
        named = query.get("dbname", query.get("database", [None]))[-1]
        return unquote(parts.path.lstrip("/")) or named or self.user

    def dsn_for(self, role: str) -> str:
        """Return the DSN for logging in as ``role``: without its user's password when that is another role.

        asyncpg would otherwise offer the control role's password in the client role's name.
        """
        if role == self.user:
            return self.dsn
        parts = urlsplit(self.dsn)
        userinfo, at, hosts = parts.netloc.rpartition("@")
        netloc = f"{userinfo.partition(':')[0]}@{hosts}" if at else hosts
        query = "&".join(pair for pair in parts.query.split("&") if pair.partition("=")[0] != "password")
        return urlunsplit(parts._replace(netloc=netloc, query=query))

    def __str__(self) -> str:
        return self.name
