"""What every look at a database shares: links, limits, progress, and the findings so far.

Decides how a shard is asked: by links of the doctor's own, with a limit for each statement, one question at a time for
each shard. What a shard answers with an error is a finding as well, and the other looks go on.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from proxy.commands import endpoints
from proxy.doctor.finding import Command, found
from proxy.errors import ProxyError
from proxy.shards.control import ControlLimits, ControlLinks
from proxy.shards.errors import ShardError
from router.own_schema import quote_literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from proxy.config import Config
    from proxy.doctor.finding import Finding
    from proxy.shards.control import ControlConnection
    from router.catalog import Catalog
    from router.cluster import Database

MIN_LINKS: Final = 4  # one that reads, one for the fence, one to finish what is decided, one to ask
# Values are compared and copied as text: it must be the same text everywhere, and lose nothing.
TEXT_SETTINGS: Final = {
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
}
SET_TEXT: Final = "; ".join(f"SET {name} = '{value}'" for name, value in TEXT_SETTINGS.items())
# One by one: RESET ALL would take back what control links are set to for commits.
_RESET: Final = "; ".join(f"RESET {name}" for name in ("statement_timeout", *TEXT_SETTINGS))


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says. ``rows``: read the rows of tables; ``timeout_s``: of one statement."""

    rows: bool = True
    timeout_s: float = 30.0
    batch_pages: int = 2048
    pause_ms: int = 0
    config: str = "FILE"


def words(error: ShardError | ProxyError) -> str:
    """Return an error in one line."""
    message, detail = (
        (error.fields.message, error.fields.detail) if isinstance(error, ShardError) else (error.message, error.detail)
    )
    return " ".join(f"{message} ({detail})".split()) if detail else message


def psql_target(dsn: str) -> str:
    """Return what psql connects by: the DSN without its password, which is psql's to find (~/.pgpass, PGPASSWORD)."""
    parts = urlsplit(dsn)
    userinfo, at, hosts = parts.netloc.rpartition("@")
    netloc = f"{userinfo.partition(':')[0]}@{hosts}" if at else hosts
    query = urlencode([pair for pair in parse_qsl(parts.query) if pair[0] != "password"])
    return urlunsplit(parts._replace(netloc=netloc, query=query))


@dataclass(slots=True)
class Look:
    """One database under examination.

    ``up`` are the shards that answer, ``facts`` what they said of themselves, ``epoch`` the version of the placement,
    if they agree on one.
    """

    config: Config
    database: Database
    control: ControlLinks
    options: Options
    say: Callable[[str], None]
    up: list[int] = field(default_factory=list)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    catalog: Catalog | None = None
    rows_read: int = 0
    epoch: int | None = None

    def add(
        self, name: str, shards: int | Iterable[int] = (), thing: object = "", detail: str = "", *mend: Command
    ) -> None:
        """Note a finding; ``shards`` are indexes."""
        of = (shards,) if isinstance(shards, int) else tuple(shards)
        self.findings.append(found(name, self.database.name, tuple(self.name(s) for s in of), thing, detail, *mend))

    def name(self, shard: int) -> str:
        """Return a shard's name."""
        return self.database.shards[shard]

    def names(self, shards: Iterable[int]) -> str:
        """Return names of shards for a person."""
        return ", ".join(self.name(shard) for shard in shards)

    @property
    def home(self) -> int:
        """The home shard."""
        return self.database.home

    @property
    def many(self) -> bool:
        """Whether there is more than one shard."""
        return len(self.database.shards) > 1

    @property
    def whole(self) -> bool:
        """Whether every shard answers."""
        return len(self.up) == len(self.database.shards)

    def sql(self, shard: int, text: str) -> Command:
        """Return a command that is SQL for a shard."""
        return Command(self.name(shard), text)

    def target(self, shard: int) -> str:
        """Return what psql connects by."""
        return psql_target(self.config.databases[self.database.name].dsns[shard])

    @asynccontextmanager
    async def link(self, shard: int) -> AsyncIterator[ControlConnection]:
        """Lend a link whose statements have the doctor's limit and print text that can be compared."""
        async with self.control.connection(shard) as connection:
            await connection.execute(f"SET statement_timeout = '{int(self.options.timeout_s * 1000)}ms'; {SET_TEXT}")
            try:
                yield connection
            finally:
                if connection.usable:
                    await connection.execute(_RESET)

    async def ask(self, shard: int, query: str, *arguments: object) -> Any:
        """Return what one statement says, from JSON text."""
        async with self.link(shard) as connection:
            text = await connection.fetchval(query, *arguments)
        return None if text is None else json.loads(text)

    async def ask_all(self, query: str, *arguments: object) -> dict[int, Any]:
        """Ask all shards that answer the same, side by side."""
        answers = await asyncio.gather(*(self.ask(shard, query, *arguments) for shard in self.up))
        return dict(zip(self.up, answers, strict=True))

    async def pause(self) -> None:
        """Let others have the servers for a moment, between two batches."""
        await asyncio.sleep(self.options.pause_ms / 1000)

    async def run(self, what: str, look: Callable[[Look], Awaitable[None]]) -> None:
        """Run one look; a shard that answers it with an error is a finding."""
        self.say(f"{self.database.name}: {what}")
        try:
            await look(self)
        except ShardError as error:
            self.add("look-failed", error.shard, "", f"{what}: {words(error)}")
        except ProxyError as error:
            self.add("look-failed", (), "", f"{what}: {words(error)}")


@asynccontextmanager
async def own_links(config: Config, database: Database) -> AsyncIterator[ControlLinks]:
    """Lend control links of the doctor's own, as many as its looks need at a time."""
    given = config.limits.group("control")
    limits = ControlLimits(**{**given, "per_shard": max(MIN_LINKS, given["per_shard"])})
    control = ControlLinks(endpoints(config.databases[database.name]), limits)
    try:
        yield control
    finally:
        await control.close()


def listed(values: Sequence[object], most: int = 8) -> str:
    """Return some values for a person, and how many more there are."""
    shown = ", ".join(map(str, values[:most]))
    return f"{shown} and {len(values) - most} more" if len(values) > most else shown


def literal(text: str) -> str:
    """Quote a text for SQL."""
    return quote_literal(text).strip()
