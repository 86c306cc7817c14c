"""Names that mean a temporary relation of the session, and a lasting one to every other.

Plans know lasting relations only. Where a temporary one has had its name first (others may give it to a lasting one at
any time), what names it without a schema is refused in that session, and so is what runs functions or triggers that use
the lasting one. With their schemas both can be named; that is how the temporary one is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.planner.context import Context
from router.tree import constant, items, name_parts, strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from router.planner.base import Planner
    from router.statement import Parsed
    from router.tree import Node

_READS_NAMES: Final = frozenset({"nextval", "currval", "setval", "to_regclass", "pg_get_serial_sequence"})


def check(planner: Planner, parsed: Parsed, search_path: tuple[str, ...], hiding: frozenset[str]) -> None:
    """Refuse a statement that means by one of ``hiding`` (bare names) what the catalog does not know."""
    context = Context(planner.database, planner.catalog, parsed, search_path, ())
    for kind, body in parsed.nodes:
        for name in _named(kind, body):
            if name in hiding:
                raise context.refuse("temporary-hides", body.get("location"), table=name)
    touched = set(context.every_effect.touches)
    for kind, body in parsed.nodes:
        relation = planner.catalog.resolve(name_parts(body), search_path) if kind == "RangeVar" else None
        if relation is not None:
            for write in (False, True):
                touched |= planner.catalog.sets_off(relation.name, write=write).touches - {relation.name}
    for table in sorted(table for table in touched if table.name in hiding):
        raise context.refuse("temporary-hides", table=table)


def _named(kind: str, body: Node) -> Iterator[str]:
    """Give the bare names that a node may look up in the session's own schema."""
    if kind == "RangeVar" and not body.get("schemaname"):
        yield body["relname"]
    elif kind == "FuncCall" and strings(body.get("funcname"))[-1:][0] in _READS_NAMES:
        yield from _spelled(body.get("args", ()))
    elif kind == "TypeCast":
        if strings(body.get("typeName", {}).get("names"))[-1:] == ("regclass",):
            yield from _spelled([body["arg"]])
    elif kind == "TypeName" and len(body.get("names", ())) == 1:
        yield from strings(body["names"])
    elif "object" in body or "objects" in body:
        for one in [*items(body.get("objects")), *([body["object"]] if "object" in body else [])]:
            yield from strings(items(one))[:1]  # of a schema, a relation, or a relation that has a column


def _spelled(arguments: list[Node]) -> Iterator[str]:
    """Give the names in texts, with more than one reading where quotes stand in them."""
    for argument in arguments:
        inner = argument["TypeCast"]["arg"] if "TypeCast" in argument else argument
        literal = constant(inner)
        if literal is not None and isinstance(literal[1], str):
            yield literal[1].strip().strip('"')
            yield literal[1].strip().lower()
