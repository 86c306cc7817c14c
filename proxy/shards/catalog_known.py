"""Definitions that nobody can print just now, because somebody holds their tables exclusively.

Postgres locks a table in ACCESS SHARE mode to print an expression, a view or a rule over it. Behind a TRUNCATE in an
open block, or an ALTER TABLE, that waits; and whoever reads the catalog then keeps all others waiting for a table that
they do not want. So what is locked so is not printed, and the text that was printed last stands in its place.

Decides when that text is still right: the row that holds it is the same version of the same row (its ``xmin`` is one of
its facts), and nothing that had a name then has another one now. Where it is not, whoever reads has to wait.
"""

from __future__ import annotations

import json
from typing import Any, Final

Row = list[Any]
Document = dict[str, Any]

#: Lists of :mod:`proxy.shards.catalog_sql` whose rows hold printed texts, and where. The last item of such a row is the
#: ``xmin`` of what is printed, None where there is nothing to print; the first is an OID of ``hidden``.
TEXTS: Final = {
    "relations": (6, 7),
    "columns": (11,),
    "indexes": (8, 9),
    "checks": (2,),
    "triggers": (4,),
    "rules": (4,),
    "policies": (1, 2),
    "functions": (11,),
}


class Known:
    """What was read last of one database."""

    def __init__(self) -> None:
        self._document: Document | None = None

    def complete(self, document: Document) -> bool:
        """Put known texts where none were printed; False where that would not be certain: then nothing is changed."""
        hidden = set(document["hidden"] or ())
        if not hidden:
            return True
        known = self._document
        if known is None or not _same_names(known, document):
            return False
        found: list[tuple[Row, Row]] = []
        for name, places in TEXTS.items():
            before = {_bare(row, places): row for row in known[name] or () if row[0] in hidden}
            for row in document[name] or ():
                if row[0] not in hidden or row[-1] is None:
                    continue
                known_row = before.get(_bare(row, places))
                if known_row is None:
                    return False
                found.append((row, known_row))
        for row, known_row in found:
            row[:] = known_row
        return True

    def keep(self, document: Document) -> None:
        """Note a whole document: what is committed, with every text."""
        self._document = document


def without_versions(document: Document) -> Document:
    """Return the document as its readers want it, without ``xmin``."""
    return {name: [row[:-1] for row in rows or ()] if name in TEXTS else rows for name, rows in document.items()}


def _bare(row: Row, places: tuple[int, ...]) -> str:
    return json.dumps([None if place in places else value for place, value in enumerate(row)])


def _same_names(one: Document, other: Document) -> bool:
    """Whether nothing that is in both has another name: texts name what they refer to."""
    for name, key, value in (
        ("relations", (0,), (1, 2)),
        ("columns", (0, 2), (1,)),
        ("functions", (0,), (1, 2)),
        ("types", (0,), (1, 2)),
    ):
        named = {tuple(row[at] for at in key): [row[at] for at in value] for row in one[name] or ()}
        for row in other[name] or ():
            if named.get(tuple(row[at] for at in key), missing := [row[at] for at in value]) != missing:
                return False
    # Operators have no OID here: a symbol that is gone may have another name now.
    return {(row[0], row[1]) for row in one["operators"] or ()} <= {
        (row[0], row[1]) for row in other["operators"] or ()
    } and set(one["schemas"] or ()) <= set(other["schemas"] or ())
