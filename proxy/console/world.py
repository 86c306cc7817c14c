"""What the console needs of the server that it is part of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from proxy.admin.counts import Periods
    from proxy.config import Config
    from proxy.database import LogicalDatabase
    from proxy.session.session import Session
    from proxy.siblings.family import Family


class World(Protocol):
    """One running proxy, as the process sees it that was asked."""

    config: Config  # of the whole proxy
    periods: Periods
    family: Family | None  # the other workers, if there are any

    @property
    def number(self) -> int:
        """Return which worker this is, from 1."""

    async def workers(self) -> Sequence[Mapping[str, Any]]:
        """Return worker, pid, state, clients, since (Unix time) and restarts of each."""

    def databases(self) -> Mapping[str, LogicalDatabase]:
        """Return the logical databases that are served, by name."""

    def sessions(self) -> Collection[Session]:
        """Return the sessions of clients, those of the console not among them."""

    async def reload(self) -> None:
        """Do what SIGHUP does; raises ProxyError when all stays as it was."""

    def drain(self) -> None:
        """Do what SIGTERM does."""
