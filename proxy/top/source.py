"""Where the figures come from: the console of a running proxy, asked as psql asks it.

A link of proxy.shards is a client of the simple protocol already, with logins and TLS as its DSN says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from proxy.config import CONSOLE_DATABASE
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.link import open_link
from proxy.wire.scram import is_verifier

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.shards.link import ShardLink
    from proxy.top.figures import Row

INT8 = 20


class Source(Protocol):
    """Who answers SHOW."""

    async def show(self, view: str) -> list[Row]:
        """Return the rows of a view; raises ShardError."""
        ...

    async def close(self) -> None:
        """Hang up."""


class Console:
    """The console at a DSN (``postgres://ops@127.0.0.1:6432/pgchorus``); connects when asked, and again when lost."""

    def __init__(self, dsn: str, password: str | None = None) -> None:
        parts = urlsplit(dsn)
        self._endpoint = ShardEndpoint("console", 0, dsn)
        self._role = self._endpoint.user or "postgres"
        self._password = password or (unquote(parts.password) if parts.password else None)
        self._database = unquote(parts.path.lstrip("/")) or CONSOLE_DATABASE
        self._link: ShardLink | None = None

    async def show(self, view: str) -> list[Row]:
        """Return the rows of a view."""
        if self._link is None or self._link.closed:
            self._link = await open_link(
                self._endpoint, role=self._role, password=self._password, database=self._database
            )
        answer = await self._link.run(f"SHOW {view}")
        names = [(field.name.decode(), field.type_oid == INT8) for field in answer.fields]
        return [
            {
                name: None if cell is None else int(cell) if number else cell.decode()
                for (name, number), cell in zip(names, row, strict=True)
            }
            for row in answer.rows
        ]

    async def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            await self._link.close()


def console_of(config: Config) -> Console:
    """Return the console of the proxy that a configuration describes, for the first whom it lets in."""
    user = next(iter((*config.console.admins, *config.console.readers)), "postgres")
    secret = config.auth.users.get(user)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.listen.host, config.listen.host)  # noqa: S104 - all of them
    where = f"[{host}]" if ":" in host else host
    return Console(
        f"postgres://{user}@{where}:{config.listen.port}/{CONSOLE_DATABASE}",
        None if secret is None or is_verifier(secret) else secret,
    )
