"""A statement's route for a reader: tier, shards, why these, what becomes of their rows, how it commits.

Decides the words of EXPLAIN (ROUTE) in text, JSON and YAML; the plan itself is written by :mod:`router.describe`. What
a statement is refused for is a route as well.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from router.describe import describe
from router.errors import GATHERED
from router.plan import (
    Aggregate,
    AnyShard,
    AtCursor,
    AtShard,
    ByKeys,
    Combine,
    Constant,
    Ddl,
    Elements,
    EveryShard,
    Gather,
    HomeShard,
    InOrder,
    Ordered,
    Same,
    Scatter,
    ShardByShard,
    Single,
    SplitInsert,
    SumTags,
)
from router.plan_steps import (
    ApplyRows,
    Asked,
    CreateFrom,
    CreateSchema,
    Filled,
    FillView,
    LockCopies,
    LockRows,
    MoveRows,
    OwnRows,
    ReadTables,
)
from router.resolve import UnresolvedKey, shards_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from router.cluster import Database
    from router.errors import Refused
    from router.plan import Plan, RoutingTerm, Statement, Target

TEXT_OID: Final = 25
JSON_OID: Final = 114
FORMATS: Final = ("text", "json", "yaml")
_MAX_KEYS_SHOWN: Final = 20
ONE_SHARD: Final = "one shard"
Route = dict[str, Any]


def route_of(statement: Statement, database: Database, tables: Sequence[str]) -> Route:
    """Return the route of a planned statement; ``tables``: what it names, with where that lives."""
    plan = statement.plan
    if isinstance(plan, Filled):
        inner = route_of(plan.inner, database, tables)
        inner["Steps"] = [*_first_steps(plan, database), *inner["Steps"]]
        return inner
    found: Route = {"Tier": _tier(plan), "Shards": list(_shards(plan, database)), "Chosen by": _chosen(plan)}
    if tables:
        found["Tables"] = list(tables)
    found["Steps"] = list(_steps(plan, database))
    if statement.audit is not None:
        found["Steps"].append("audit: an error if what nobody can see through has touched rows of other shards")
    several = len(found["Shards"]) > 1 and not isinstance(plan, Single)
    writes = statement.tag not in {"SELECT", "EXPLAIN"} or bool(
        getattr(plan, "writes", isinstance(plan, LockRows | LockCopies))
    )
    found["Commit"] = _commit(several=several, writes=writes)
    if several and not writes:
        found["Snapshot"] = "one for all shards, taken behind the fence"
    found["Plan"] = described = describe(statement)
    if "text" in described:
        described["text"] = described["text"].strip()  # behind the blanks that stand for EXPLAIN
    return found


def refused_route(refused: Refused) -> Route:
    """Return the route of a statement that is refused."""
    found = {"Tier": "refused", "Refused": refused.refusal, "SQLSTATE": refused.sqlstate, "Message": refused.message}
    found |= {"Detail": refused.detail} if refused.detail else {}
    return found | ({"Hint": refused.hint} if refused.hint else {})


_TIERS: Final[dict[type, str]] = {
    Single: ONE_SHARD,
    Gather: "gather",
    SplitInsert: "split by key",
    OwnRows: "push-down",
    LockRows: "rows chosen, and locked as they are chosen",
    MoveRows: "rows read, then inserted where they belong",
    CreateFrom: "table made at home and made alike elsewhere, then filled by INSERT ... SELECT",
    CreateSchema: "one element after the other",
    FillView: "rows read as by INSERT ... SELECT, and kept at home",
    LockCopies: "rows locked at home, then on the other copies",
    ApplyRows: "home first, its rows applied to the other copies",
}


def _tier(plan: Plan) -> str:
    if isinstance(plan, Scatter):
        if isinstance(plan.combine, Same):
            return "every copy"
        return "merge" if isinstance(plan.combine, Ordered | Aggregate) else "push-down"
    return _TIERS.get(type(plan), type(plan).__name__)


def _targets(plan: Plan) -> Iterator[Target]:
    if isinstance(plan, Single | Scatter | Ddl | CreateFrom | CreateSchema | ShardByShard | OwnRows | LockRows):
        yield plan.target
    elif isinstance(plan, Gather):
        for load in plan.loads:
            yield load.target
    elif isinstance(plan, MoveRows):
        yield from _targets(plan.read.plan)
        yield plan.target
    elif isinstance(plan, ApplyRows | LockCopies | FillView):
        yield EveryShard()
    elif isinstance(plan, SplitInsert):
        yield ByKeys(plan.key_type, tuple(dict.fromkeys(plan.keys)))


def _shards(plan: Plan, database: Database) -> Iterator[str]:
    """Yield the names of the shards that the plan may use; all of them where a parameter decides."""
    used: set[int] = set()
    for target in _targets(plan):
        try:
            used.update(shards_of(target, database))
        except UnresolvedKey:
            used.update(range(len(database.shards)))
    yield from (database.shards[shard] for shard in sorted(used))


def _chosen(plan: Plan) -> str:
    return "; ".join(dict.fromkeys(_why(target) for target in _targets(plan))) or "nothing: the session itself answers"


_REASONS: Final[dict[type, str]] = {
    AtShard: "a hint",
    AtCursor: "the cursor: where it was declared",
    AnyShard: "no sharded table: every shard would answer alike",
    HomeShard: "tables or functions of the home shard",
    EveryShard: "no predicate on a sharding key",
}


def _why(target: Target) -> str:
    if not isinstance(target, ByKeys):
        return _REASONS[type(target)]
    if not target.terms:
        return "predicates that no key meets"
    shown = ", ".join(map(_term, target.terms[:_MAX_KEYS_SHOWN]))
    more = f" and {len(target.terms) - _MAX_KEYS_SHOWN} more" if len(target.terms) > _MAX_KEYS_SHOWN else ""
    return f"sharding key ({target.key_type}) = {shown}{more}"


def _term(term: RoutingTerm) -> str:
    if isinstance(term, Elements):
        return f"any of ${term.number}"
    if not isinstance(term, Constant):
        return f"${term.number}"
    value = term.value
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        digits = value.hex()
        return "'" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])) + "'"
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def _steps(plan: Plan, database: Database) -> Iterator[str]:
    if isinstance(plan, Single):
        yield "the statement goes out as it came, the answer comes back as it is"
    elif isinstance(plan, SplitInsert):
        yield f"{len(plan.rows)} rows are split by key"
    elif isinstance(plan, OwnRows):
        keys = ", ".join(dict.fromkeys(sql for _, sql in plan.keys))
        yield f"each shard inserts the rows whose key is its own: {keys}"
        yield "add up the numbers of rows"
    elif isinstance(plan, ApplyRows | LockCopies | MoveRows | LockRows):
        yield from _one_after_another(plan)
    elif isinstance(plan, Gather):
        for load in plan.loads:
            shards = ", ".join(_shards(Single(load.target, writes=False), database))
            yield f"load {load.table} from {shards}: {_one_line(load.source)}"
        reason = GATHERED.get(plan.reason)
        yield f"gathered because {reason[0] if reason else plan.reason}"
        yield f"run on a scratch link: {_one_line(plan.text)}"
    elif isinstance(plan, Scatter):
        if plan.text is not None:
            yield f"each shard runs: {_one_line(plan.text)}"
        yield from _combining(plan.combine)


def _one_after_another(plan: ApplyRows | LockCopies | MoveRows | LockRows) -> Iterator[str]:
    if isinstance(plan, ApplyRows | LockCopies):
        yield f"the home shard runs: {_one_line(plan.home.text)}"
        done = "rows that it changed are applied to" if isinstance(plan, ApplyRows) else "same rows are locked on"
        yield f"the {done} the other copies, by primary key"
    elif isinstance(plan, MoveRows):
        yield f"rows are read: {_one_line(plan.read.text)}"
        yield f"each is written where it belongs: {_one_line(plan.into)}"
    else:
        yield f"each shard runs, with a LIMIT of its own: {_one_line(plan.text)}"
        if plan.keys:
            yield f"merge sorted rows by {len(plan.keys)} keys; locks of rows that are not among them are given back"
        else:
            yield "one shard after the other, until there are enough"


def _combining(combine: Combine) -> Iterator[str]:
    if isinstance(combine, Ordered):
        if combine.keys:
            yield f"merge sorted rows by {len(combine.keys)} keys"
        yield from _cut(combine)
    elif isinstance(combine, Aggregate):
        kinds = ", ".join(column.kind.value for column in combine.columns)
        yield f"combine groups by {len(combine.group)} columns: {kinds}" if combine.group else f"combine: {kinds}"
        if combine.order:
            yield f"sort by {len(combine.order)} keys"
        yield from _cut(combine)
    elif isinstance(combine, SumTags | InOrder):
        yield "add up the numbers of rows"
    elif isinstance(combine, Same):
        yield "every copy does the same; the answers must agree"
    else:
        yield "concatenate rows"


def _cut(combine: Ordered | Aggregate) -> Iterator[str]:
    for word, term in (("offset", combine.offset), ("limit", combine.limit)):
        if term is not None:
            yield f"{word} {_term(term)}"


def _first_steps(plan: Filled, database: Database) -> Iterator[str]:
    """Yield what is done before the statement itself: what is asked, and the values that are made."""
    values = [value for row in plan.values for value in row]
    made = [value for value in values if not isinstance(value, Asked)]
    if made:
        yield f"{len(made)} values are made first: sequences, defaults or the clock"
    for value in values:
        if not isinstance(value, Asked):
            continue
        read = value.read.plan
        if not isinstance(read, ReadTables):
            yield f"asked first, on {', '.join(_shards(read, database))}: {_one_line(value.read.text)}"
            continue
        for load in read.loads:
            shards = ", ".join(_shards(Single(load.target, writes=False), database))
            yield f"rows asked first, behind one snapshot, on {shards}: {load.source}"


def _commit(*, several: bool, writes: bool) -> str:
    if not writes:
        return "nothing is written"
    return "two-phase: one shard is the commit point, the others prepare" if several else "plain, on one shard"


def _one_line(text: str) -> str:
    return " ".join(text.split())


# --- formats ---------------------------------------------------------------------------------------------------------


def rendered(route: Route, form: str) -> tuple[str, ...]:
    """Return the rows of EXPLAIN (ROUTE): lines in text, one value otherwise."""
    if form == "json":
        return (json.dumps([{"Route": route}], indent=2, ensure_ascii=False),)
    if form == "yaml":
        return ("\n".join(["- Route:", *yaml_lines(route, "    ")]),)
    return tuple(text_lines(route))


def text_lines(route: Route) -> Iterator[str]:
    """Yield a route as lines for a person; the plan's tree is left to the other formats."""
    names = route.get("Shards", ())
    word = " of " if route["Tier"] == ONE_SHARD and len(names) > 1 else " on "
    shards = f"{word}{', '.join(names)}" if names else ""
    yield f"Route: {route['Tier']}{shards}"
    for name, value in route.items():
        if name in {"Tier", "Shards", "Plan"}:
            continue
        if name == "Steps":
            yield from (f"  Step: {step}" for step in value)
        else:
            yield f"  {name}: {', '.join(value) if isinstance(value, list) else value}"


def yaml_lines(value: Any, indent: str) -> Iterator[str]:
    """Yield a value as block YAML; scalars are JSON, which YAML reads."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _yaml_item(f"{indent}{name}:", item, indent + "  ")
    elif isinstance(value, list) and value:
        for item in value:
            yield from _yaml_item(f"{indent}-", item, indent + "  ")
    else:
        yield indent + json.dumps(value, ensure_ascii=False)


def _yaml_item(head: str, item: Any, indent: str) -> Iterator[str]:
    if isinstance(item, dict | list) and item:
        yield head
        yield from yaml_lines(item, indent)
    else:
        yield f"{head} {json.dumps(item, ensure_ascii=False)}"
