"""Towns of tests/integration (databases with tables, and a proxy before them), handed on from module to module.

A proxy takes a second or two of processor time to start, so a town is kept while modules follow each other that want
one like it. It is handed on only as it was made: with the same catalogs in every database (tables, types, functions,
settings of roles and databases), behind the same process, and without a test that says it spoiled it. Any other is
ended, and the next module gets a new one. Rows are not looked at: each test begins by emptying the tables.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.integration.conftest import Town

SPARE = 4  # towns kept while nobody uses them: a proxy that idles costs a hundredth of a processor

FIRST_OID = 16_384  # what is not Postgres's own
_CATALOGS = {
    "pg_namespace": "oid",
    "pg_class": "oid",
    "pg_attribute": "attrelid",
    "pg_attrdef": "oid",
    "pg_constraint": "oid",
    "pg_index": "indexrelid",
    "pg_trigger": "oid",
    "pg_rewrite": "oid",
    "pg_policy": "oid",
    "pg_inherits": "inhrelid",
    "pg_proc": "oid",
    "pg_type": "oid",
    "pg_enum": "oid",
    "pg_cast": "oid",
    "pg_operator": "oid",
    "pg_collation": "oid",
    "pg_extension": "oid",
    "pg_event_trigger": "oid",
    "pg_publication": "oid",
    "pg_largeobject_metadata": "oid",
    "pg_default_acl": "oid",
    "pg_description": "objoid",
}
# What changes by itself: statistics, files, ages.
_VOLATILE = ["relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid", "relminmxid"]
_HERE = "(SELECT oid FROM pg_database WHERE datname = current_database())"
_BESIDE = f"""
    SELECT 'settings', string_agg(to_jsonb(s)::text, '' ORDER BY s::text) FROM pg_db_role_setting s
        WHERE setdatabase IN (0, {_HERE})
    UNION ALL SELECT 'database', (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text FROM pg_database d
        WHERE oid = {_HERE}
    UNION ALL SELECT 'public', nspacl::text FROM pg_namespace WHERE nspname = 'public'
"""
IMPRINT = _BESIDE + "".join(
    f"UNION ALL SELECT '{name}', md5(string_agg(md5((to_jsonb(c) - '{{{','.join(_VOLATILE)}}}'::text[])::text), ''"
    f" ORDER BY c::text)) FROM {name} c WHERE {oid} >= {FIRST_OID} "
    for name, oid in _CATALOGS.items()
)


@dataclass(frozen=True, slots=True)
class _Kept:
    town: Town
    ending: ExitStack
    pid: int
    imprint: list[Any]

    def as_made(self) -> bool:
        town = self.town
        if town.spoiled or not town.process.running or town.process.pid != self.pid:
            return False
        return imprint(town) == self.imprint


def imprint(town: Town) -> list[Any]:
    """Return what is to be the same when a town is handed on."""
    return [sorted(map(str, rows)) for rows in town.direct_rows(IMPRINT)]


class Towns:
    """Lends towns; `make` is given what the town is to be like, which is also what it is kept by."""

    def __init__(self, make: Callable[..., AbstractContextManager[Town]]) -> None:
        self._make = make
        self._kept: dict[str, _Kept] = {}

    @contextmanager
    def lend(self, count: int, **more: Any) -> Iterator[Town]:
        """Lend a town of so many shards, whose configuration has `more`."""
        like = json.dumps([count, more], sort_keys=True)
        kept = self._kept.pop(like, None) or self._made(count, more)
        yield kept.town
        if kept.as_made():
            self._kept[like] = kept
        else:
            kept.ending.close()
        while len(self._kept) > SPARE:
            self._kept.pop(next(iter(self._kept))).ending.close()

    def _made(self, count: int, more: dict[str, Any]) -> _Kept:
        with ExitStack() as stack:
            town = stack.enter_context(self._make(count, **more))
            return _Kept(town, stack.pop_all(), town.process.pid, imprint(town))
        raise AssertionError

    def close(self) -> None:
        """End those that nobody uses."""
        while self._kept:
            self._kept.popitem()[1].ending.close()
