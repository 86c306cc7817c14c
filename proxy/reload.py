"""SIGHUP: who may log in and how, and with which certificate, is read again; nobody who is in is sent away.

Decides what may change while the proxy runs: the sections ``auth`` (rules, users and their passwords, those in files as
well), ``tls``, ``console`` and ``log``, of ``limits`` those of pools, clients and draining, and of a database
``tables`` and ``functions``, all or none. A file with a mistake anywhere leaves all as it was, and so do placements by
which rows would have to move (proxy.placing). What else has changed waits for a restart, and the log says that it does.

With workers the supervisor reads the file, once, and every worker makes ready what it will need (``prepare``) before
the first begins to go by it (``Prepared.apply``).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy import logs, systemd
from proxy.authentication import Credentials
from proxy.config import ConfigError, load
from proxy.errors import ProxyError
from proxy.limits import Limits
from proxy.placing import Placing, placed_anew
from proxy.tls import TlsError, TlsServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config import Auth, Config, DatabaseConfig, Log
    from proxy.database import LogicalDatabase

log = structlog.get_logger("pgchorus.reload")

_RELOADED = ("auth", "tls", "console", "log")
_RELOADED_LIMITS = tuple(
    one.name
    for one in fields(Limits)
    if one.name.startswith("pool_") or one.name in {"clients_max", "drain_timeout_s", "worker_hang_s"}
)


class Reloadable(Protocol):
    """What is renewed: the server."""

    config: Config
    auth: Auth
    credentials: Credentials
    tls: TlsServer | None
    reloading: asyncio.Lock

    def databases(self) -> Mapping[str, LogicalDatabase]:
        """Return the databases that are served."""

    def use_passwords(self, passwords: Mapping[str, str]) -> None:
        """Log in to the shards with these from now on."""

    def use_log(self, log: Log) -> None:
        """Log what this says from now on."""

    def use_limits(self, limits: Limits) -> None:
        """Go by the limits that may change from now on."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What has been read and found good."""

    config: Config
    credentials: Credentials
    tls: TlsServer | None
    placing: Placing | None  # where tables are placed in another way

    def apply(self, server: Reloadable) -> None:
        """Go by it from now on."""
        auth = self.config.auth
        server.auth, server.credentials, server.tls = auth, self.credentials, self.tls
        server.use_passwords(auth.passwords)
        if self.config.log != server.config.log:
            logs.set_up(self.config.log.level, self.config.log.format)
            server.use_log(self.config.log)
        if self.config.limits != server.config.limits:
            server.use_limits(self.config.limits)
        server.config = self.config


async def prepare(server: Reloadable, renewed: Config) -> Prepared:
    """Make everything ready for going by ``renewed``; raises TlsError or OSError for a certificate that is no good."""
    tls = None if renewed.tls is None else await asyncio.to_thread(TlsServer, renewed.tls)
    # A verifier costs milliseconds, and there may be many. The secret stays: with another one, made-up salts would
    # change and those of users who exist would not.
    credentials = await asyncio.to_thread(Credentials, renewed.auth.users, server.credentials.secret)
    placing = None
    if name := placed_anew(server.config, renewed):
        placing = Placing(server.databases()[name], renewed.databases[name], renewed.cluster.name)
    return Prepared(renewed, credentials, tls, placing)


def read_again(before: Config) -> tuple[Config, list[str]]:
    """Return ``before`` with what may change as the file has it now, and the names of what else has changed there.

    Raises ConfigError, and ProxyError for placements that only moving rows could change.
    """
    found = load(Path(before.file))
    limits = replace(before.limits, **{name: getattr(found.limits, name) for name in _RELOADED_LIMITS})
    placed = {
        name: _placed(one, found.databases[name]) if name in found.databases else one
        for name, one in before.databases.items()
    }
    renewed = replace(
        before,
        limits=limits,
        databases=placed,
        cluster=replace(before.cluster, databases={name: one.logical for name, one in placed.items()}),
        **{name: getattr(found, name) for name in _RELOADED},
    )
    placed_anew(before, renewed)
    waiting = [one.name for one in fields(found) if getattr(found, one.name) != getattr(renewed, one.name)]
    return renewed, waiting


def _placed(before: DatabaseConfig, found: DatabaseConfig) -> DatabaseConfig:
    """Return a database with the placements and the further shards of another configuration; the rest stays."""
    return replace(before, logical=found.logical, dsns=before.dsns + found.dsns[len(before.dsns) :])


def say_done(file: str, waiting: list[str]) -> None:
    """Log that it was reloaded, and what was not."""
    log.info("users, rules and certificate reloaded", file=file)
    if waiting:
        log.warning("other changes wait for a restart", file=file, sections=", ".join(waiting))


def failed(file: str, error: Exception, *, again: bool) -> ProxyError:
    """Log that nothing has changed (``again``: only to those who debug), and return what an administrator is told."""
    told = error if isinstance(error, ProxyError) else None
    reason = str(error) if told is None else told.message
    (log.debug if again else log.error)("not reloaded, all stays as it was", file=file, error=reason)
    detail, hint = ("", "") if told is None else (told.detail, told.hint)
    return ProxyError("F0000", f"not reloaded, all stays as it was: {reason}", detail=detail, hint=hint)


async def reload(server: Reloadable, *, again: bool = False) -> ProxyError | None:
    """Read the configuration's file again; return why all is as it was, if that is so. The log has it as well.

    ``again``: it has had it already.
    """
    async with server.reloading:
        systemd.reloading()
        file = server.config.file
        try:
            renewed, waiting = await asyncio.to_thread(read_again, server.config)
            prepared = await prepare(server, renewed)
            if prepared.placing is not None:
                await _place(prepared.placing)
        except (ConfigError, TlsError, OSError, ProxyError) as error:
            return failed(file, error, again=again)
        else:
            prepared.apply(server)
            say_done(file, waiting)
            return None
        finally:
            systemd.ready()


async def _place(placing: Placing) -> None:
    """Take all steps of a process that is alone."""
    try:
        await placing.hold()
        await placing.adopt(await placing.change())
        await placing.known()
    finally:
        placing.release()
