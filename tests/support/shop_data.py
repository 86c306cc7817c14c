"""The shop of `shop.py` as real tables with rows, made through any connection: one Postgres or the proxy."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.conftest import MakeDatabases, StartProxy

SCHEMA = """
create table countries (id int4 primary key, name text, rate numeric);
create table customers (id int8 primary key, name text, email text, country int4, born date, vip bool, balance numeric);
create table orders (customer_id int8, id int8, total numeric, placed timestamptz, status text, note text, items int4,
weight float8,
  primary key (customer_id, id), foreign key (customer_id) references customers (id));
create table order_items (customer_id int8, order_id int8, sku text, qty int4, price numeric, primary key
(customer_id, order_id, sku)); create table events (id uuid primary key, kind varchar, at timestamptz default now(),
body jsonb); create table docs (slug text primary key, title text, words int4, lang char(2));
create table labels (code varchar(3), text text);
create table measures (k int8, f float8, span interval, j jsonb, m numeric);
create table defaults (k int4 default 7, v text);
create table parted (k int8, day date) partition by range (day);
create table parted_1 partition of parted for values from ('2024-01-01') to ('2025-01-01');
create table settings (name text primary key, value text, changed timestamptz default now());
create table log (id serial, line text);
create view settings_view as select name, value from settings;
create view country_names as select id, name from countries;
create function double(x int) returns int language sql immutable as 'select x * 2'
"""

TABLES = {
    "customers": {"key": "id"},
    "orders": {"key": "customer_id"},
    "order_items": {"key": "customer_id"},
    "events": {"key": "id"},
    "docs": {"key": "slug"},
    "labels": {"key": "code"},
    "measures": {"key": "k"},
    "defaults": {"key": "k"},
    "parted": {"key": "k"},
    "planned": {"key": "k"},
    "countries": "reference",
}


def _quoted(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def _insert(table: str, rows: Sequence[tuple[object, ...]]) -> str:
    return f"insert into {table} values " + ", ".join("(" + ", ".join(map(_quoted, row)) + ")" for row in rows)


def inserts(seed: int) -> list[str]:
    """Rows by a seed: NULLs, ties, negative and large keys, names beyond ASCII."""
    chance = random.Random(seed)
    keys = [-5, 0, 1, 2, 3, 5, 7, 2**40, *(chance.randrange(100_000) for _ in range(30))]
    keys = list(dict.fromkeys(keys))

    def maybe(value: object, odds: float = 0.15) -> object:
        return None if chance.random() < odds else value

    names = ["Ana", "ana", "Bo", "Zoë", "ödön", "", "x y", "O'Neil", "zz"]
    customers = [
        (key, maybe(chance.choice(names)), f"c{key}@example.org", maybe(chance.randrange(1, 5)),
         maybe(f"19{chance.randrange(60, 99)}-0{chance.randrange(1, 9)}-11"), maybe(chance.random() < 0.5),
         maybe(chance.choice(["1.0", "1.00", "2.50", "-3", "1e10", "NaN"])))
        for key in keys
    ]  # fmt: skip
    orders = [
        (key, number, maybe(round(chance.uniform(-5, 500), 2)),
         maybe(f"2024-0{chance.randrange(1, 9)}-1{chance.randrange(9)} 1{chance.randrange(9)}:00:00+00"),
         maybe(chance.choice(["new", "paid", "sent"])), None, maybe(chance.randrange(-3, 12)), chance.uniform(0, 3))
        for key in keys
        for number in range(chance.randrange(4))
    ]  # fmt: skip
    goods = [
        (key, number, sku, chance.randrange(1, 9), maybe(round(chance.uniform(1, 50), 2)))
        for key, number, *_ in orders
        for sku in chance.sample(["a", "b", "c"], chance.randrange(4))
    ]
    measures = [
        (key, chance.choice([0.0, 0.5, "NaN", "-0", 1e300]), chance.choice(["1 mon", "30 days", "1 day", None]),
         chance.choice(['{"a": 1}', "{}", None]), maybe(chance.choice(["1.0", "1.00", "5", "-2.25"])))
        for key in keys
    ]  # fmt: skip
    return [
        _insert("countries", [(1, "Chile", "1.5"), (2, "Åland", None), (3, "Peru", "2"), (4, "chile", "1.50")]),
        _insert("customers", customers),
        _insert("orders", orders),
        _insert("order_items", goods),
        _insert("measures", measures),
        _insert(
            "docs", [(f"s{n}", maybe(f"t{n % 5}"), maybe(n % 7), chance.choice(["en", "e", "de"])) for n in range(20)]
        ),
        _insert(
            "events", [(f"00000000-0000-4000-8000-{n:012d}", "k", f"2024-01-{n % 9 + 1:02d}", "{}") for n in range(20)]
        ),
        _insert("labels", [("a", "x"), ("b  ", "y"), ("abc", "z"), ("abc   ", "cut")]),
        _insert("parted", [(n, f"2024-0{n % 8 + 1}-01") for n in range(12)]),
        _insert("settings", [("a", "Peru", "2024-01-01"), ("b", "x", None)]),
        "insert into defaults (v) values ('x'), ('y')",
    ]


@contextmanager
def filled_shops(
    make_databases: MakeDatabases, start_proxy: StartProxy, seed: int
) -> Iterator[tuple[psycopg.Connection[Any], psycopg.Connection[Any]]]:
    """The shop in one Postgres and behind a proxy over three shards: a connection to each."""
    shards = make_databases(3)
    oracle = make_databases(1, "oracle")[0]
    process = start_proxy(shards, TABLES)
    with (
        psycopg.connect(oracle, autocommit=True) as one,
        psycopg.connect(process.dsn(shards[0].rpartition("/")[2]), autocommit=True) as proxy,
    ):
        for connection in (one, proxy):
            for statement in (*SCHEMA.strip().split(";\n"), *inserts(seed)):
                connection.execute(statement.encode())
        yield one, proxy
