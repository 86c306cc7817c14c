"""What a statement that nobody could see through has left in its session: a part of its audit.

A link is cleaned when the session gives it back, and other shards have links of their own: so what such a statement
leaves (settings, a role, prepared statements, held cursors) would be gone or unknown with the next statement.
It is an error then, but for advisory locks, which are worth keeping: the link stays with the session, as with those
that the client takes itself.

Settings that the server reports (search_path and the like) are followed as always. What cannot be seen are custom
settings (``app.tenant``) that no text names, as no view of Postgres lists them, and LISTEN, which takes effect with
the commit only: these are lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.settings import quote_literal

if TYPE_CHECKING:
    from proxy.shards.link import ShardLink

_LOOK: Final = """SELECT
 (SELECT pg_catalog.count(*) FROM pg_catalog.pg_locks k WHERE k.locktype OPERATOR(pg_catalog.=) 'advisory'
   AND k.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()),
 (SELECT pg_catalog.string_agg(pg_catalog.concat(s.name, '=', s.setting), ',' ORDER BY s.name)
   FROM pg_catalog.pg_settings s WHERE s.source OPERATOR(pg_catalog.=) 'session'
   AND NOT s.name OPERATOR(pg_catalog.=) ANY ('{%s}'::pg_catalog.text[])),
 pg_catalog.current_setting('role'),
 (SELECT pg_catalog.string_agg(p.name, ',' ORDER BY p.name) FROM pg_catalog.pg_prepared_statements p WHERE p.from_sql),
 (SELECT pg_catalog.string_agg(c.name, ',' ORDER BY c.name) FROM pg_catalog.pg_cursors c WHERE c.is_holdable),
 (SELECT pg_catalog.string_agg(pg_catalog.concat(n, '=', pg_catalog.current_setting(n, true)), ',' ORDER BY n)
   FROM pg_catalog.unnest(ARRAY[%s]::pg_catalog.text[]) n)"""
_LOCKS: Final = (
    "SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory'"
    " AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"
)
_NAMES: Final = ("", "settings", "the role", "prepared statements", "held cursors", "settings")


class Leftovers(NamedTuple):
    """The state of one link's session: how many advisory locks, and the rest as texts in the order of ``_NAMES``."""

    advisory_locks: int
    others: tuple[bytes | None, ...]
    custom: frozenset[str]  # settings that were asked for

    def changed(self, before: Leftovers) -> str:
        """Return what other than locks is not as it was before, nothing if all is."""
        pairs = zip(_NAMES[1:], self.others, before.others, strict=True)
        return next((name for name, now, then in pairs if now != then), "")


async def advisory_locks(link: ShardLink) -> int:
    """Ask a link how many advisory locks it has, its transaction's among them."""
    return len((await link.run(_LOCKS)).rows)


async def look(link: ShardLink, custom: frozenset[str]) -> Leftovers:
    """Ask a link what its session has; ``custom``: the settings with a dot in their name that are asked for."""
    reported = ",".join(name for name in link.parameters if name.isidentifier())
    row = (await link.run(_LOOK % (reported, ",".join(map(quote_literal, sorted(custom)))))).rows[0]
    return Leftovers(int(row[0] or 0), tuple(row[1:]), custom)
