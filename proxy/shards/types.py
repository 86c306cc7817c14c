"""Which OID each shard has for a user-defined type: read with the catalog, compared with home's.

Decides whether a shard needs translation at all: one that calls every type as home does gets no map, and costs nothing.
A type is the same where schema and name are; an array goes by the name of its element's type, for Postgres makes up its
own. How OIDs in messages are replaced is proxy.wire.oids', when proxy.shards.translating's.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from proxy.shards.catalog import ask_inside
from proxy.shards.errors import ShardError
from proxy.wire.oids import ARRAY, MULTIRANGE, RANGE, ROW, TypeMap

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from proxy.shards.catalog import Control
    from proxy.shards.link import ShardLink
    from proxy.wire.oids import Form
    from router.cluster import Database

# The subtype of a multirange is that of its range. An array is what another type calls its array.
READ_TYPES: Final = """
SELECT json_agg(json_build_array(t.oid::bigint, n.nspname, coalesce(e.typname, t.typname), e.oid IS NOT NULL, t.typtype,
    CASE WHEN t.typtype = 'd' THEN t.typbasetype WHEN e.oid IS NOT NULL THEN e.oid ELSE coalesce(
      (SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid,
         (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid)), 0) END::bigint))::text
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
  LEFT JOIN pg_catalog.pg_type e ON e.typarray = t.oid
WHERE t.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgchorus')
"""

_MOST_HEADS: Final = 4096
_FORMS: Final = {"c": ROW, "r": RANGE, "m": MULTIRANGE}
NOTHING_KNOWN: Final = TypeMap({}, {}, {})
"""Of a shard that could not be asked: every user-defined type is an error there."""


class _Name(NamedTuple):
    """What a type has in common with itself elsewhere."""

    schema: str
    name: str
    array: bool
    kind: str


class ShardTypes:
    """What the links to one shard go by; ``current`` is None when nothing must be translated.

    ``heads``: how answers of that shard begin that need no translation, up to the end of their columns' description, by
    what was asked (proxy.session.lane_quick).
    """

    __slots__ = ("current", "heads")

    def __init__(self, current: TypeMap | None = None) -> None:
        self.current = current
        self.heads: dict[object, bytes] = {}

    def use(self, current: TypeMap | None) -> None:
        """Go by other types from now on."""
        self.current = current
        self.heads.clear()

    def note_head(self, asked: object, head: bytes) -> None:
        """Remember how an answer has begun; not of ever more sessions."""
        if len(self.heads) >= _MOST_HEADS:
            self.heads.clear()
        self.heads[asked] = head


AS_AT_HOME: Final = ShardTypes()


def type_map(home: Iterable[Sequence[Any]], shard: Iterable[Sequence[Any]]) -> TypeMap | None:
    """Compare two answers to READ_TYPES; None when what both have has the same OIDs, and no OID two meanings."""
    names_at_home = {_Name(*row[1:5]): row[0] for row in home}
    rows = list(shard)
    to_home = {
        oid: names_at_home[name] for oid, name in ((row[0], _Name(*row[1:5])) for row in rows) if name in names_at_home
    }
    own = len(rows) - len(to_home)
    lacking = len(names_at_home) - len(to_home)
    if not own and not lacking and all(oid == meant for oid, meant in to_home.items()):
        return None
    return TypeMap(to_home, {meant: oid for oid, meant in to_home.items()}, _forms(rows))


def _forms(rows: Iterable[Sequence[Any]]) -> Mapping[int, Form]:
    kinds = {row[0]: (row[3], row[4], row[5]) for row in rows}
    forms: dict[int, Form] = {}
    for oid in kinds:
        at = oid
        while at in kinds and kinds[at][1] == "d" and not kinds[at][0]:
            at = kinds[at][2]  # a domain's values are its base type's
        array, kind, part = kinds.get(at, (False, "b", 0))
        if array:
            forms[oid] = (ARRAY, part)
        elif kind in _FORMS:
            forms[oid] = (_FORMS[kind], part)
    return forms


async def load_types(control: Control, database: Database) -> list[TypeMap | None]:
    """Ask every shard for its types and return how each calls them. Raises ShardError if home cannot be asked.

    Another that cannot knows nothing: it is asked again when it is back (LogicalDatabase.shard_returned).
    """
    if len(database.shards) == 1:
        return [None]

    async def ask(shard: int) -> list[Any] | ShardError:
        try:
            async with control.connection(shard) as connection:
                return list(json.loads(await connection.fetchval(READ_TYPES) or "[]"))
        except ShardError as error:
            return error

    answers = await asyncio.gather(*(ask(shard) for shard in range(len(database.shards))))
    home = answers[database.home]
    if isinstance(home, ShardError):
        raise home
    return [
        NOTHING_KNOWN if isinstance(answer, ShardError) else None if shard == database.home else type_map(home, answer)
        for shard, answer in enumerate(answers)
    ]


async def load_types_inside(links: Mapping[int, ShardLink], home: int) -> None:
    """Let links go by the types that their open transaction sees. Raises ShardError."""
    shards = list(links)
    answers = await asyncio.gather(*(ask_inside(links[shard], READ_TYPES) for shard in shards))
    rows = {shard: json.loads(answer) or [] for shard, answer in zip(shards, answers, strict=True)}
    for shard, link in links.items():
        link.types = ShardTypes(None if shard == home else type_map(rows[home], rows[shard]))
