"""What the console needs of the server that it is part of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from proxy.admin.counts import Periods
    from proxy.config import Config
    from proxy.database import LogicalDatabase
    from proxy.session.session import Session


class World(Protocol):
    """One running proxy."""

    config: Config
    started_at: float  # Unix time
    periods: Periods

    def databases(self) -> Mapping[str, LogicalDatabase]:
        """Return the logical databases that are served, by name."""

    def sessions(self) -> Collection[Session]:
        """Return the sessions of clients, those of the console not among them."""

    def reload(self) -> None:
        """Do what SIGHUP does."""

    def drain(self) -> None:
        """Do what SIGTERM does."""
