"""SIGHUP: who may log in and how, and with which certificate, is read again; nobody who is in is sent away.

Decides what may change while the proxy runs: the sections ``auth`` (rules, users and their passwords, those in files as
well), ``tls``, ``console`` and ``log``, all or none. A file with a mistake anywhere leaves all as it was. What else has
changed waits for a restart, and the log says that it does.
"""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from proxy import logs
from proxy.authentication import Credentials
from proxy.config import ConfigError, load
from proxy.tls import TlsError, TlsServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.config import Auth, Config, Log

log = structlog.get_logger("pgchorus.reload")

_RELOADED = ("auth", "tls", "console", "log")


class Reloadable(Protocol):
    """What is renewed: the server."""

    config: Config
    auth: Auth
    credentials: Credentials
    tls: TlsServer | None
    reloading: asyncio.Lock

    def use_passwords(self, passwords: Mapping[str, str]) -> None:
        """Log in to the shards with these from now on."""

    def use_log(self, log: Log) -> None:
        """Log what this says from now on."""


async def reload(server: Reloadable) -> None:
    """Read the configuration's file again. Never raises for what stands in it."""
    async with server.reloading:
        before = server.config
        try:
            found = await asyncio.to_thread(load, Path(before.file))
            tls = None if found.tls is None else await asyncio.to_thread(TlsServer, found.tls)
        except (ConfigError, TlsError, OSError) as error:
            log.error("not reloaded, all stays as it was", file=before.file, error=str(error))  # noqa: TRY400 - no bug
            return
        # A verifier costs milliseconds, and there may be many. The secret stays: with another one, made-up salts would
        # change and those of users who exist would not.
        credentials = await asyncio.to_thread(
            Credentials, before.cluster.name, found.auth.users, server.credentials.secret
        )
        server.auth, server.credentials, server.tls = found.auth, credentials, tls
        server.use_passwords(found.auth.passwords)
        if found.log != before.log:
            logs.set_up(found.log.level, found.log.format)
            server.use_log(found.log)
        server.config = replace(before, auth=found.auth, tls=found.tls, console=found.console, log=found.log)
        waiting = [
            one.name
            for one in fields(found)
            if one.name not in _RELOADED and getattr(found, one.name) != getattr(before, one.name)
        ]
        log.info("users, rules and certificate reloaded", file=before.file)
        if waiting:
            log.warning("other changes wait for a restart", file=before.file, sections=", ".join(waiting))
