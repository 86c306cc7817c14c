"""Scripts for psql that move or copy rows between shards, to be read before they are run.

Decides how rows travel so that nobody sees half of it: both sides are prepared, with their locks, before either is
committed, and the fence is held between the two commits, so that no read of several shards falls in between. psql has
one connection at a time; a prepared transaction keeps its locks while it is elsewhere. What was prepared is rolled back
when the other side fails.

The gids are not of proxies: recovery leaves them alone. Whether rows refer to rows that are gone is for each script.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.doctor.look import SET_TEXT, literal
from router.own_schema import quote_identifier, quote_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from proxy.doctor.look import Look
    from router.cluster import TableName
    from router.relation import ForeignKey

FILE: Final = "pgchorus-mend.copy"
MARK: Final = "pgchorus-mend"
_OPEN: Final = f"\\encoding UTF8\n{SET_TEXT};\nSET lock_timeout = '30s';\nSET client_min_messages = warning;"
_REPLICA: Final = "SET LOCAL session_replication_role = replica;    -- no triggers, no cascades"


@dataclass(frozen=True, slots=True)
class _Sides:
    """Two shards and the names of what is prepared there."""

    first: str
    second: str
    gid: str

    def commit(self) -> str:
        """Return the end of a script, behind the PREPARE of both: both or none."""
        a, b, fence = (literal(f"{self.gid}:{part}") for part in ("a", "b", "fence"))
        ask = f"SELECT count(*) > 0 AS prepared FROM pg_prepared_xacts WHERE gid = {b}"  # noqa: S608 - quoted
        return f"""\\set ON_ERROR_STOP on
{ask} \\gset
\\if :prepared
-- Reads of several shards wait from here until both sides are committed.
BEGIN; LOCK TABLE pgchorus.fence IN ROW EXCLUSIVE MODE; PREPARE TRANSACTION {fence};
COMMIT PREPARED {b};
{self.first}
COMMIT PREPARED {a};
{self.second}
COMMIT PREPARED {fence};
\\! rm -f {FILE}
\\else
{self.first}
ROLLBACK PREPARED {a};
\\! rm -f {FILE}
DO $$ BEGIN RAISE EXCEPTION 'nothing was changed: see the error above'; END $$;
\\endif
"""


def _sides(look: Look, first: int, second: int, what: str) -> _Sides:
    digest = hashlib.sha256(what.encode()).hexdigest()[:12]
    gid = f"{MARK}:{look.name(first)}:{look.name(second)}:{digest}"
    connect = [f"\\connect '{look.target(shard)}'\n{_OPEN}" for shard in (first, second)]
    return _Sides(connect[0], connect[1], gid)


def _head(text: str) -> str:
    return f"""-- {text}
-- All or nothing. If psql itself is ended between the two COMMIT PREPARED, pgchorus doctor shows the other part
-- ({MARK}:...): COMMIT PREPARED it as well. Rows pass through the file {FILE} in this directory.
\\set ON_ERROR_STOP on
"""


def _columns(columns: Iterable[str]) -> str:
    return ", ".join(quote_identifier(column) for column in columns)


def move_rows(  # noqa: PLR0913, PLR0917 - what is moved whence whither
    look: Look, table: str, columns: Sequence[str], condition: str, source: int, target: int, count: int
) -> str:
    """Return a script that moves the rows of one table (no heirs) that fit a condition."""
    sides = _sides(look, source, target, f"{table} {condition}")
    names = _columns(columns)
    select = f"SELECT {names} FROM ONLY {table} WHERE {condition}"  # noqa: S608 - quoted
    return (
        _head(f"Moves {count} rows of {table} from {look.name(source)} to {look.name(target)}, where they belong.")
        + f"""{sides.first}
BEGIN;
{_REPLICA}
LOCK TABLE ONLY {table} IN SHARE ROW EXCLUSIVE MODE;
\\copy ({select}) TO '{FILE}'
DELETE FROM ONLY {table} WHERE {condition};
PREPARE TRANSACTION {literal(f"{sides.gid}:a")};
{sides.second}
BEGIN;
{_REPLICA}
\\set ON_ERROR_STOP off
\\copy {table} ({names}) FROM '{FILE}'
PREPARE TRANSACTION {literal(f"{sides.gid}:b")};
{sides.commit()}"""  # noqa: S608 - quoted
    )


def copy_table(
    look: Look, table: TableName, columns: Sequence[str], target: int, referring: Iterable[tuple[TableName, ForeignKey]]
) -> str:
    """Return a script that gives a shard the home shard's rows of a reference table.

    ``referring``: foreign keys to it. Where a row would refer to one that is gone, nothing is changed.
    """
    name, names = quote_table(table), _columns(columns)
    sides = _sides(look, look.home, target, name)
    checks = "".join(f"{_dangling(other, key)}\n" for other, key in referring)
    head = _head(f"Gives {look.name(target)} the rows of {name} on {look.name(look.home)}; nobody writes it meanwhile.")
    return f"""{head}{sides.first}
BEGIN;
LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE;
\\copy (SELECT {names} FROM {name}) TO '{FILE}'
PREPARE TRANSACTION {literal(f"{sides.gid}:a")};
{sides.second}
BEGIN;
{_REPLICA}
LOCK TABLE {name} IN EXCLUSIVE MODE;
\\set ON_ERROR_STOP off
DELETE FROM {name};
\\copy {name} ({names}) FROM '{FILE}'
{checks}PREPARE TRANSACTION {literal(f"{sides.gid}:b")};
{sides.commit()}"""  # noqa: S608 - quoted


def _dangling(table: TableName, key: ForeignKey) -> str:
    """Return a check that no row refers to one that is not there."""
    pairs = list(zip(key.columns, key.referenced_columns, strict=True))
    there = " AND ".join(f"r.{quote_identifier(there)} = t.{quote_identifier(here)}" for here, there in pairs)
    given = " AND ".join(f"t.{quote_identifier(here)} IS NOT NULL" for here, _ in pairs)
    found = f"SELECT FROM {quote_table(key.table)} r WHERE {there}"
    query = f"SELECT FROM {quote_table(table)} t WHERE {given} AND NOT EXISTS ({found})"
    problem = literal(f"rows of {table} refer to rows that the home shard does not have")
    return f"DO $check$ BEGIN IF EXISTS ({query}) THEN RAISE EXCEPTION USING MESSAGE = {problem}; END IF; END $check$;"
