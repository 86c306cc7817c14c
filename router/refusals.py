"""The refusal catalogue as a document: ``python -m router.refusals > docs/refusals.md`` (or ``make docs``).

Decides only how the table looks; what is refused, and how that is said, is in :mod:`router.errors`.
"""

from __future__ import annotations

import sys
from typing import Final

from router.errors import ANY_SHARDS, REFUSALS, RUNNING

_HEAD: Final = """# What is refused, and why

Over several shards, a statement that cannot be seen to be exact is refused: SQLSTATE `0A000`, a message and a hint.
Over one shard nothing of this is refused. Each refusal has an id that stays; `EXPLAIN (ROUTE)` shows it. Words in
braces are filled in. Made from `router/errors.py` by `make docs`.

| id | message | hint |
|---|---|---|
"""
_RUNNING: Final = """
## When it runs

Some things turn out only when a statement runs, or concern the session around it. `EXPLAIN (ROUTE)` does not show them.

| id | message | hint |
|---|---|---|
"""
_ANY_SHARDS: Final = """
These are refused over one shard as well:

| id | message | hint |
|---|---|---|
"""
_TAIL: Final = """
## SQLSTATEs

Some come with a SQLSTATE of their own: `undefined-table` with `42P01`, as in Postgres; a gathered statement that needs
more than `gather.max_bytes` ends with `53400`; a negative LIMIT or OFFSET with Postgres's own `2201W` and `2201X`.
Before the proxy refuses a statement it shows it to a shard, by Parse only: what Postgres itself has against it (a
column that does not exist, a type that does not fit) is what the client is told.
"""


def document() -> str:
    """Return the whole document."""
    return f"{_HEAD}{_rows(REFUSALS)}{_RUNNING}{_rows(RUNNING)}{_ANY_SHARDS}{_rows(ANY_SHARDS)}{_TAIL}"


def _rows(table: dict[str, tuple[str, str]]) -> str:
    return "".join(
        f"| `{name}` | {_cell(message)} | {_cell(hint)} |\n" for name, (message, hint) in sorted(table.items())
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    sys.stdout.write(document())
