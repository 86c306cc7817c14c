"""Texts that plans add to a client's own DDL: calls of what ``pgchorus init`` installs in the schema ``pgchorus``.

Decides how they are written. What the procedures do is :mod:`proxy.shards.schema`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.sharding import slot_check

if TYPE_CHECKING:
    from router.cluster import Database, TableName

SLOT_CONSTRAINT: Final = "pgchorus_slot"

CATALOG_BUMP: Final = "CALL pgchorus.note_change()"
"""Run on the home shard inside the transaction of any DDL: its commit gives other proxies another catalog version."""

_ANY_HASH: Final = "hashint8extended"


def told(condition: str) -> str:
    """Return a CHECK's condition that leaves a trace where it is not met.

    Code may catch the violation (an EXCEPTION block), and a row that was meant for another shard would be missing. What
    the function does outlives that: a sequence moves on, and the audit sees it (:mod:`proxy.session.audit`).
    """
    return f"({condition} OR pgchorus.stray())"


def quote_identifier(name: str) -> str:
    """Quote a name for SQL."""
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """Quote a text for SQL, whatever ``standard_conforming_strings`` is."""
    quoted = "'" + text.replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def quote_table(table: TableName) -> str:
    """Quote a table's name for SQL."""
    return f"{quote_identifier(table.schema)}.{quote_identifier(table.name)}"


def guard_call(database: Database, table: TableName, key: str, shard: int, *, validate: bool = True) -> str:
    """Return the call that gives a sharded table on ``shard`` the CHECK that its rows' slots belong there.

    The procedure finds the key's type itself, so the text can be made before the table is. It raises 0A000 for a key
    that cannot be one, and does nothing where the table has that very CHECK or inherits it. It runs as the caller.
    """
    first, last = database.slot_range(shard)
    column = quote_identifier(key)
    check = told(slot_check("int8", "\x00", database.slots, first, last)).replace(_ANY_HASH, "\x01")
    check = check.replace("%", "%%").replace("\x00", column.replace("%", "%%")).replace("\x01", "%1$s")
    arguments = (
        f"{quote_literal(quote_table(table))}, {quote_literal(key)}, {quote_literal(check)}, {str(validate).lower()}"
    )
    return f"CALL pgchorus.guard({arguments})"
