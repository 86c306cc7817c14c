"""CREATE of what may need something that only the home shard has: functions, types, domains, operators, views.

Home goes first; another shard that lacks what it needs (a home table's row type, a function over such a table) says so,
and goes without the object, which is then home's too. Whether a definition can be read there is Postgres's own word:
only it knows what the body of a function means under the function's own ``search_path``. Decides what another shard is
given, and what may not be left on one that goes without. What needs such an object later, where every shard must have
it (a policy, a column of a sharded table), is refused when a shard says that it does not know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.cluster import Sharded
from router.errors import SyntaxFailure
from router.plan import Ddl, EveryShard, HomeShard, Statement
from router.planner.passthrough import tag_of
from router.printer import quoted
from router.rewrite import OPEN, group_end, is_name, list_items
from router.statement import parse
from router.tree import items, name_parts, strings, walk

if TYPE_CHECKING:
    from router.planner.context import Context
    from router.relation import Column, Relation

UNDEFINED: Final = ("42704", "42P01", "42883")  # object, relation, function
_DEFAULTS: Final = frozenset({"DEFAULT", "ASCII_61"})


def where_it_can_be(*, texts: tuple[str | None, ...] = (), lacking: str = "") -> Ddl:
    """Make the plan of a CREATE at home, and on the other shards if they have what it needs."""
    return Ddl(EveryShard(), absent=UNDEFINED, alike=True, texts=texts, lacking=lacking)


def create_function(context: Context) -> Statement:
    """CREATE FUNCTION and PROCEDURE; what names home tables in an SQL body is not even tried elsewhere."""
    from router.planner.ddl import check_lasting, statement  # noqa: PLC0415 - ddl lists this planner

    check_lasting(context)
    if _reads_home(context):
        return statement(context, HomeShard())
    if not context.many:
        return statement(context, EveryShard())
    plan = where_it_can_be(texts=_without_home_types(context), lacking=_dropped(context))
    return context.statement(plan, tag_of(context.parsed))


def _reads_home(context: Context) -> bool:
    """Whether an SQL function names a table of the home shard: Postgres reads its body right away."""
    options = {
        option["DefElem"]["defname"]: option["DefElem"].get("arg", {}) for option in context.body.get("options", ())
    }
    text = strings(items(options.get("as")))
    ranges = [body for kind, body in walk(context.body.get("sql_body")) if kind == "RangeVar"]
    if options.get("language", {}).get("String", {}).get("sval", "sql").lower() == "sql" and text:
        try:
            ranges += [body for parsed in parse(text[0]) for kind, body in walk(parsed.body) if kind == "RangeVar"]
        except SyntaxFailure:
            return False  # the shards say what is wrong
    known = [context.catalog.resolve(name_parts(body), context.search_path) for body in ranges]
    return any(relation is not None and _is_home_table(context, relation) for relation in known)


def _is_home_table(context: Context, relation: Relation) -> bool:
    from router.planner.ddl import where  # noqa: PLC0415 - as above

    if relation.name.schema in {"pg_catalog", "information_schema"} or relation.kind.value == "S":
        return False
    return isinstance(where(context, relation), HomeShard)


_BEFORE: Final = 1 << 1  # TRIGGER_TYPE_BEFORE


def check_trigger(context: Context) -> None:
    """Refuse a trigger that changes the key of every row: by then the row is on the shard of the key it had."""
    body, catalog = context.body, context.catalog
    relation = context.relation(body["relation"])
    placement = catalog.effective_placement(relation) if relation is not None else None
    if not isinstance(placement, Sharded) or body.get("timing") != _BEFORE or not body.get("row"):
        return
    parts = strings(body.get("funcname"))
    called = [one for one in catalog.functions if one.name.name == parts[-1] and parts[:-1] in {(), (one.name.schema,)}]
    if context.many and "whenClause" not in body and called and all(placement.key in one.assigns for one in called):
        table = ".".join(name_parts(body["relation"]))
        raise context.refuse("trigger-key", body["relation"].get("location"), key=placement.key, table=table)


# --- what other shards get -------------------------------------------------------------------------------------------


def _without_home_types(context: Context) -> tuple[str | None, ...]:
    """Return by shard what has the types of a home table's columns in the place of ``table.column%TYPE``.

    Postgres puts the type there itself, so the function is the same everywhere.
    """
    parsed, splices = context.parsed, []
    for kind, body in walk([context.body.get("parameters"), {"returnType": context.body.get("returnType")}]):
        if kind != "TypeName" or not body.get("pct_type"):
            continue
        *table, name = strings(body.get("names"))
        relation = context.catalog.resolve(tuple(table), context.search_path) if table else None
        column = relation.column(name) if relation is not None else None
        first = parsed.token_at(parsed.place(body["location"]))
        if relation is None or column is None or not _is_home_table(context, relation):
            continue
        last = next(at for at in range(first, len(parsed.tokens)) if parsed.tokens[at].name == "TYPE_P")
        splices.append((parsed.tokens[first].start, parsed.tokens[last].end, _type_of(column)))
    if not splices:
        return ()
    text = parsed.text
    for start, end, new in sorted(splices, reverse=True):
        text = text[:start] + new + text[end:]
    home = context.database.home
    return tuple(None if shard == home else text for shard in range(len(context.database.shards)))


def _type_of(column: Column) -> str:
    if column.base_type_oid not in {0, column.type_oid} or not column.bare_type:
        return quoted(column.type_schema, column.type_name)
    return column.bare_type


def _dropped(context: Context) -> str:
    """Return what drops the function that CREATE OR REPLACE would have replaced on a shard that goes without it."""
    if not context.body.get("replace"):
        return ""
    parsed = context.parsed
    tokens, text = parsed.tokens, parsed.text
    opens = next((at for at, token in enumerate(tokens) if token.name in OPEN), None)
    end = group_end(tokens, opens) if opens is not None else None
    if opens is None or end is None:
        return ""
    arguments = []
    for first, behind in list_items(tokens, opens + 1, end):
        stop = next(
            (at for at in range(first, behind) if tokens[at].name in _DEFAULTS and not is_name(tokens, at)), behind
        )
        arguments.append(text[tokens[first].start : tokens[stop - 1].end] if stop > first else "")
    kind = "PROCEDURE" if context.body.get("is_procedure") else "FUNCTION"
    return f"DROP {kind} IF EXISTS {quoted(*strings(context.body['funcname']))}({', '.join(arguments)})"
