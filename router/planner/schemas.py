"""CREATE SCHEMA with elements: the schema, and then each of its elements as a statement of its own.

Decides how the text is cut, and the order, which is Postgres's: sequences, tables, views, indexes, triggers, rights
(``transformCreateSchemaStmtElements``). Where an element belongs is planned when it is its turn, as it may name what
came before. What Postgres refuses in any case goes to the home shard, to be told so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.own_schema import quote_identifier
from router.plan import EveryShard, HomeShard, Single
from router.plan_steps import CreateSchema
from router.planner.passthrough import is_temporary, tag_of
from router.rewrite import is_name, outside_brackets
from router.statement import parse
from router.tree import same, unwrap

if TYPE_CHECKING:
    from router.plan import Statement
    from router.planner.context import Context
    from router.statement import Parsed
    from router.tree import Node

#: In the order in which they are made, and where each has the name that is in the schema.
_KINDS: Final = {
    "CreateSeqStmt": "sequence",
    "CreateStmt": "relation",
    "ViewStmt": "view",
    "IndexStmt": "relation",
    "CreateTrigStmt": "relation",
    "GrantStmt": "",
}
_ON_TABLES: Final = frozenset({"IndexStmt", "CreateTrigStmt"})
_HERE: Final = frozenset({"ROLESPEC_CURRENT_USER", "ROLESPEC_CURRENT_ROLE"})
_NAMED: Final = "ROLESPEC_CSTRING"


def create(context: Context) -> Statement:
    """CREATE SCHEMA with elements."""
    body, parsed = context.body, context.parsed
    owner = body.get("authrole", {})
    if owner and owner.get("roletype") not in {*_HERE, _NAMED}:
        raise context.refuse("unknown-statement", name="CREATE SCHEMA with elements and AUTHORIZATION SESSION_USER")
    schema = body.get("schemaname") or owner.get("rolename")
    starts = _starts(parsed)
    elements = [unwrap(node) for node in body["schemaElts"]]
    if schema is None or len(starts) != len(elements) or not {kind for kind, _ in elements} <= _KINDS.keys():
        raise context.refuse("unknown-statement", name="this form of CREATE SCHEMA with elements")
    if any(_is_wrong(schema, kind, element) for kind, element in elements):
        return context.statement(Single(HomeShard(), writes=True), tag_of(parsed))
    pieces = []
    for (kind, element), start, stop in zip(elements, starts, [*starts[1:], parsed.end], strict=True):
        text = " " * start + parsed.text[start:stop]
        if kind in _ON_TABLES and "schemaname" not in element["relation"]:  # the schema's own, if there is none too
            at = parsed.place(element["relation"]["location"])
            text = text[:at] + quote_identifier(schema) + "." + text[at:]
        if not same(parse(text)[0].body, _qualified(schema, kind, element)):
            raise context.refuse("unknown-statement", name="this form of CREATE SCHEMA with elements")
        pieces.append((list(_KINDS).index(kind), text))
    pieces.sort(key=lambda piece: piece[0])  # those of a kind stay in their order
    head = parsed.text[: starts[0]]
    role = owner["rolename"] if owner.get("roletype") == _NAMED else ""
    plan = CreateSchema(EveryShard(), head, schema, role, tuple(text for _, text in pieces))
    return context.statement(plan, tag_of(parsed))


def _starts(parsed: Parsed) -> list[int]:
    """Return where the elements begin."""
    tokens, found = parsed.tokens, []
    for at in outside_brackets(tokens, 2):
        begins = tokens[at].name == "CREATE" or (tokens[at].name == "GRANT" and tokens[at - 1].name != "WITH")
        if begins and not is_name(tokens, at):
            found.append(tokens[at].start)
    return found


def _is_wrong(schema: str, kind: str, element: Node) -> bool:
    """Whether Postgres refuses an element in this schema."""
    if not _KINDS[kind]:
        return False
    name = element[_KINDS[kind]]
    return name.get("schemaname", schema) != schema or is_temporary(name) or bool(element.get("concurrent"))


def _qualified(schema: str, kind: str, element: Node) -> Node:
    """Return what an element's text must come to."""
    if kind not in _ON_TABLES:
        return element
    return {**element, "relation": {**element["relation"], "schemaname": schema}}
