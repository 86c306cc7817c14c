"""What databases hold, in a form that can be compared."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg

from programs import run_well

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RELATIONS = """SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = ANY (%s) AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgchorus')
    ORDER BY 1"""
CLOCKS = {"timestamp with time zone", "timestamp without time zone", "uuid"}


def definitions(dsn: str, *, without: Iterable[str] = ()) -> set[str]:
    """Return the lines of a schema's dump, without what differs by design."""
    left_out = [f"--exclude-table={name}" for name in without]
    dump = run_well("pg_dump", "-d", dsn, "--schema-only", "-N", "pgchorus", "--restrict-key=a", *left_out)
    lines = (re.sub(r"CONSTRAINT \w+_not_null ", "", line).rstrip(",") for line in dump.splitlines())
    return {
        line
        for line in lines
        if line
        and not line.startswith(("--", "CREATE EVENT TRIGGER pgchorus", "ALTER EVENT TRIGGER pgchorus"))
        and not {"pgchorus_slot", "pgchorus.note_ddl"} & set(re.findall(r"[\w.]+", line))
    }


def relations(dsn: str, kinds: str) -> list[str]:
    """Return the names of relations of these kinds (letters of pg_class.relkind)."""
    with psycopg.connect(dsn) as connection:
        return [name for (name,) in connection.execute(RELATIONS, (list(kinds),))]


def only_at_home(shards: Sequence[str]) -> list[str]:
    """Return what the first shard has and the others have not."""
    first, *others = (set(relations(dsn, "rpvmS")) for dsn in shards)
    assert all(other <= first for other in others)
    return sorted(first - set.union(*others)) if others else []


def stored(dsn: str) -> dict[str, list[str]]:
    """Return the rows of all tables, sorted, without columns that hold moments and random values."""
    found = {}
    names = relations(dsn, "rpm")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in names:
            described = connection.execute(f"TABLE {name} LIMIT 0".encode()).description or ()
            columns = [
                column.name for column in described if column.type_display not in {"timestamptz", "timestamp", "uuid"}
            ]
            chosen = ", ".join(f'"{column}"' for column in columns)
            rows = connection.execute(f"SELECT {chosen or 'NULL'} FROM {name}".encode()).fetchall()
            found[name] = sorted(map(repr, rows))
    return found
