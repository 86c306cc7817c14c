"""Generated SELECTs: the proxy over three shards answers as one Postgres does, or refuses; it never answers otherwise.

Queries join sharded, reference and derived tables in all ways, with conditions on keys in all places where they
might be taken for routes. Rows are compared as multisets; with LIMIT the order covers every column, so that ties are
equal rows.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import TYPE_CHECKING

import psycopg
import pytest

from oracle.generated import Comparison
from oracle.generator.scenes import Scenes as AnySchema
from oracle.ground import fill, ground
from shop_data import filled_shops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.demo.embedded import EmbeddedServer
    from tests.conftest import MakeDatabases, StartProxy

SEED = int(os.environ.get("PGCHORUS_SEED", "20261122"))
QUERIES = int(os.environ.get("PGCHORUS_QUERIES", "300"))

STATEMENTS = 300
SHARDS = 2

# table: (key, columns that can be compared across tables, columns to show)
TABLE_COLUMNS = {
    "customers": ("id", ("id", "country"), ("id", "name", "country", "vip")),
    "orders": ("customer_id", ("customer_id", "id", "items"), ("customer_id", "id", "status", "items")),
    "order_items": ("customer_id", ("customer_id", "order_id", "qty"), ("customer_id", "order_id", "sku", "qty")),
    "measures": ("k", ("k",), ("k", "span")),
    "countries": (None, ("id",), ("id", "name")),
}
KEYS = (-5, 0, 1, 2, 3, 5, 7, 1099511627776)


class Generator:
    """Makes one query after another from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.serial = 0

    def pick(self, *choices: str) -> str:
        return self.chance.choice(choices)

    def odds(self, share: float) -> bool:
        return self.chance.random() < share

    def table(self) -> tuple[str, str]:
        """A table's name and a fresh alias."""
        self.serial += 1
        name = self.chance.choice([*TABLE_COLUMNS, "orders", "customers"])
        return name, f"t{self.serial}"

    def key(self, name: str) -> str:
        return TABLE_COLUMNS[name][0] or "id"

    def column(self, name: str) -> str:
        return self.chance.choice(TABLE_COLUMNS[name][1])

    def constant(self) -> str:
        value = self.chance.choice(KEYS)
        return self.pick(str(value), str(value), f"'{value}'", f"{value}::int8")

    def condition(self, mine: list[tuple[str, str]], outer: list[tuple[str, str]], depth: int) -> str:  # noqa: PLR0911
        """One condition over the tables ``mine``, which may name ``outer`` ones too."""
        name, alias = self.chance.choice(mine)
        other, other_alias = self.chance.choice([*mine, *outer])
        kind = self.chance.randrange(13)
        mine_key, other_key = f"{alias}.{self.key(name)}", f"{other_alias}.{self.key(other)}"
        if kind <= 2:
            return f"{mine_key} = {self.constant()}"
        if kind <= 4:
            return f"{mine_key} = {other_key}"
        if kind == 5:
            return f"{mine_key} in ({self.constant()}, {self.constant()})"
        if kind == 6:
            return f"{alias}.{self.column(name)} = {other_alias}.{self.column(other)}"
        if kind == 7:
            return f"({self.condition(mine, outer, 0)} or {self.condition(mine, outer, 0)})"
        if kind == 8:
            return f"not ({self.condition(mine, outer, 0)})"
        if kind == 9:
            return self.pick(f"{mine_key} is null", f"{mine_key} is not null", f"{mine_key} > 2")
        if depth <= 0:
            return f"{alias}.{self.column(name)} < {self.chance.randrange(9)}"
        inner, inner_alias = self.table()
        where = self.where([(inner, inner_alias)], [*mine, *outer], depth - 1)
        if kind <= 11:
            return f"{self.pick('', 'not ')}exists (select 1 from {inner} {inner_alias}{where})"
        shown = self.chance.choice([self.key(inner), self.column(inner)])
        member = self.pick("in", "in", "not in")
        return f"{mine_key} {member} (select {inner_alias}.{shown} from {inner} {inner_alias}{where})"

    def where(self, mine: list[tuple[str, str]], outer: list[tuple[str, str]], depth: int) -> str:
        parts = [self.condition(mine, outer, depth) for _ in range(self.chance.randrange(4))]
        return f" where {' and '.join(parts)}" if parts else ""

    def source(self, name: str, alias: str) -> str:
        """A table as it is, or as a subquery with the same columns."""
        if not self.odds(0.15):
            return f"{name} {alias}"
        inside = self.where([(name, "x")], [], 0)
        limit = " order by 1, 2 limit 3" if self.odds(0.15) else ""
        return f"(select x.* from {name} x{inside}{limit}) {alias}"

    def from_clause(self) -> tuple[str, list[tuple[str, str]]]:
        first = self.table()
        text, seen = self.source(*first), [first]
        for _ in range(self.chance.choice([0, 1, 1, 2])):
            following = self.table()
            kind = self.pick("join", "join", "left join", "right join", "full join", ",")
            right = self.source(*following)
            if kind == ",":
                text = f"{text} cross join {right}"
            else:
                condition = self.join_condition(seen, following)
                if kind == "full join":  # Postgres wants a condition that can be merged or hashed
                    last = self.chance.choice(seen)
                    condition = f"{last[1]}.{self.key(last[0])} = {following[1]}.{self.key(following[0])}"
                text = f"{text} {kind} {right} on {condition}"
            seen.append(following)
        return text, seen

    def join_condition(self, seen: list[tuple[str, str]], following: tuple[str, str]) -> str:
        last = self.chance.choice(seen)
        keys = f"{last[1]}.{self.key(last[0])} = {following[1]}.{self.key(following[0])}"
        parts = [keys] if self.odds(0.75) else []
        parts += [self.condition([following, *seen], [], 0) for _ in range(self.chance.choice([0, 0, 1, 2]))]
        return " and ".join(parts) if parts else "true"

    def query(self) -> str:
        tables, seen = self.from_clause()
        where = self.where(seen, [], 1)
        name, alias = self.chance.choice(seen)
        shown = [f"{alias}.{column}" for column in TABLE_COLUMNS[name][2]]
        other, other_alias = self.chance.choice(seen)
        shown.append(f"{other_alias}.{self.key(other)}")
        group = self.chance.randrange(6)
        if group == 0:
            return f"select count(*), min({shown[0]}), max({shown[-1]}), sum({shown[0]}) from {tables}{where}"
        if group == 1:
            by = self.chance.choice([shown[0], shown[-1], shown[1]])
            having = self.pick("", "", " having count(*) > 1")
            return f"select {by} as g, count(*) as n, avg({shown[0]}) from {tables}{where} group by {by}{having}"
        distinct = "distinct " if group == 2 else ""
        tail = ""
        if group == 3:
            order = ", ".join(f"{number + 1}{self.pick('', ' desc', ' nulls first')}" for number in range(len(shown)))
            tail = f" order by {order}" + self.pick("", " limit 5", " limit 4 offset 3", " offset 2")
        if group == 4:
            shown.append(f"row_number() over (partition by {shown[-1]} order by {', '.join(shown)})")
        return f"select {distinct}{', '.join(shown)} from {tables}{where}{tail}"


@pytest.fixture(scope="module")
def connections(
    make_module_databases: MakeDatabases, start_module_proxy: StartProxy
) -> Iterator[tuple[psycopg.Connection[object], psycopg.Connection[object]]]:
    with filled_shops(make_module_databases, start_module_proxy, SEED) as both:
        yield both


def run(connection: psycopg.Connection[object], sql: str) -> tuple[str, list[str]]:
    """Return the SQLSTATE and the rows."""
    try:
        return "", [repr(row) for row in connection.execute(sql.encode()).fetchall()]
    except psycopg.Error as error:
        return error.sqlstate or "", [str(error)]


@pytest.mark.timeout(300)
def test_generated_queries_answer_alike_or_are_refused(
    connections: tuple[psycopg.Connection[object], psycopg.Connection[object]],
) -> None:
    one, proxy = connections
    generator = Generator(SEED)
    counts: Counter[str] = Counter()
    for number in range(QUERIES):
        sql = generator.query()
        state, rows = run(proxy, sql)
        if state == "0A000":
            counts["refused"] += 1
            continue
        expected_state, expected = run(one, sql)
        where = f"seed {SEED}, query {number}: {sql}"
        assert state == expected_state, f"{where}\n{rows}"
        if state:
            counts["failed"] += 1
            continue
        if " order by 1" in sql.rpartition(")")[2] or sql.rstrip().endswith(("limit 5", "offset 3", "offset 2")):
            assert rows == expected, where
        else:
            assert Counter(rows) == Counter(expected), where
        counts["answered" if rows else "empty"] += 1
    assert counts["answered"] > QUERIES / 5, counts


@pytest.mark.timeout(300)
def test_generated_schemas_and_statements_answer_alike(servers: list[EmbeddedServer]) -> None:
    """The short form of generate.py."""
    generator = AnySchema(SEED)
    with ground([SHARDS], servers, tables=generator.placements()) as found:
        fill([found.one, *found.proxies.values()], generator.definitions)
        one, proxies = found.askers()
        outcome = Comparison(generator, one, proxies[SHARDS], SHARDS).run(STATEMENTS)
        for asker in (one, *proxies.values()):
            asker.close()
    assert not outcome.differences, f"{outcome.counts}\n" + "\n".join(outcome.differences)
    assert outcome.counts["rows"] > STATEMENTS / 4, outcome.counts
    assert outcome.counts["refused"] < STATEMENTS / 10, outcome.counts
