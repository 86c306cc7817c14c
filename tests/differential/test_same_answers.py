"""One Postgres and the proxy over three shards answer alike: columns, types, rows; or the proxy refuses.

Every SELECT of the golden plans that needs no parameters is run on both; those with LIMIT and no total order are
compared by what any order must have in common. Statements below are in a total order, so their rows are compared in
order.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from shop_data import filled_shops

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeDatabases, StartProxy

SEED = 20261122
PLANS = Path(__file__).parents[1] / "golden" / "plans"
ANY_ORDER = ("limit", "fetch", "offset", "string_agg", "distinct on", "row_number")  # the order of rows shows
UNKNOWN = {"42P01", "42883", "42703", "42704", "3F000", "42P02"}  # made for the golden catalog only


@dataclass
class Pair:
    """The same rows in two places."""

    one: psycopg.Connection[Any]
    proxy: psycopg.Connection[Any]


@dataclass(frozen=True)
class Outcome:
    """What a client sees of a statement."""

    columns: tuple[tuple[str, int], ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    tag: str = ""
    sqlstate: str = ""
    message: str = ""


@pytest.fixture(scope="module")
def pair(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Pair]:
    with filled_shops(make_module_databases, start_module_proxy, SEED) as both:
        yield Pair(*both)


def run(connection: psycopg.Connection[Any], sql: str, *, binary: bool = False) -> Outcome:
    cursor = connection.cursor(binary=binary)
    try:
        cursor.execute(sql.encode())
    except psycopg.Error as error:
        return Outcome(sqlstate=error.sqlstate or "", message=str(error))
    if cursor.description is None:
        return Outcome(tag=cursor.statusmessage or "")
    columns = tuple((column.name, column.type_code) for column in cursor.description)
    rows = tuple(tuple(map(repr, row)) for row in cursor.fetchall())
    return Outcome(columns, rows, cursor.statusmessage or "")


def golden(*names: str) -> list[str]:
    found = []
    for name in names:
        entries = json.loads((PLANS / f"{name}.json").read_text())
        found += [e["sql"] for e in entries if "plan" in e and not {"oids", "path", "operators", "shards"} & set(e)]
    return [sql for sql in found if "$1" not in sql and "random()" not in sql and "now()" not in sql]


@pytest.mark.parametrize("name", ["select_one_shard", "select_multi", "merge", "aggregate"])
def test_golden_selects_answer_alike(pair: Pair, name: str) -> None:
    compared = 0
    for sql in golden(name):
        expected = run(pair.one, sql)
        if expected.sqlstate in UNKNOWN:
            continue
        got = run(pair.proxy, sql)
        assert got.sqlstate == expected.sqlstate, f"{sql}: {got.message}"
        assert got.columns == expected.columns, sql
        assert len(got.rows) == len(expected.rows), sql
        if not any(word in sql.lower() for word in ANY_ORDER):
            assert Counter(got.rows) == Counter(expected.rows), sql
        assert got.tag == expected.tag, sql
        compared += 1
    assert compared > 15


def statements(text: str) -> list[str]:
    return [part.strip() for part in text.split(";\n") if part.strip()]


TOTAL = """
select * from customers order by id;
select * from customers order by id desc limit 7 offset 3;
select id, name from customers order by name nulls first, id;
select id, name from customers order by name desc, id desc limit 9;
select id from customers order by vip, born desc nulls last, id;
select id, balance from customers order by balance, id;
select k, f from measures order by f, k;
select k, span from measures order by span desc, k;
select customer_id, id, placed from orders order by placed, customer_id, id limit 20 offset 5;
select customer_id, count(*) as n, sum(total) s from orders group by customer_id order by n desc, customer_id limit
  5;
select status, count(*), sum(total), avg(total), min(placed), max(items), avg(items) from orders group by status
  order by status;
select status, items, count(*) from orders group by 1, 2 order by 3 desc, 2 nulls first, 1;
select status, items % 2 as odd, sum(qty) from orders o join order_items i on i.customer_id = o.customer_id and
  i.order_id = o.id group by status, items % 2 order by 1, 2;
select distinct status from orders order by status desc;
select distinct status, items from orders order by 1, 2 limit 6 offset 2;
select count(*), count(total), sum(items), sum(total), avg(items), avg(total), min(total), max(placed),
  bool_or(items > 3), bool_and(items > 0) from orders;
select count(*), sum(items), avg(total), min(placed) from orders where id > 1000000;
select status, avg(items) from orders where id > 1000000 group by status order by 1;
select n.name, count(*), sum(c.balance) from customers c join countries n on n.id = c.country group by n.name order
  by 1;
select avg(m), sum(m), min(m), max(m) from measures;
select sku, sum(qty * 2 + 1), avg(price) filter (where qty > 3), count(*) filter (where price is null) from
  order_items group by sku order by sku;
select lang, count(*) from docs group by lang order by lang;
select title, max(words) from docs group by title order by max(words) desc nulls last, title;
select c.id, o.n from customers c left join (select customer_id, count(*) as n from orders group by customer_id) o
  on o.customer_id = c.id order by c.id;
select c.id, x.id from customers c left join lateral (select id from orders o where o.customer_id = c.id order by
  id desc limit 1) x on true order by c.id;
select c.id, o.id from customers c full join orders o on o.customer_id = c.id and o.total > 100 order by c.id, o.id;
select date_trunc('month', placed) as m, count(*) from orders group by m order by m;
select code, text from labels order by code, text;
select * from parted order by k, day;
select k, v from defaults order by v;
select c.* from customers c where exists (select 1 from orders o where o.customer_id = c.id and o.total > 250)
  order by c.id;
select c.id from customers c where c.id not in (select customer_id from orders where customer_id = c.id) order by 1;
select id, (select max(total) from orders o where o.customer_id = c.id) from customers c order by id;
select count(distinct customer_id), min(distinct items) from orders;
select id from customers where id in (1, 2, 3, 5, 7) order by id desc limit 3;
select id, name from customers where name is distinct from 'Ana' order by id fetch first 4 rows only;
select id from customers where (id = 1 or id = 7) and balance is distinct from 1 order by id;
"""


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_ordered_rows_come_in_the_same_order(pair: Pair, binary: bool) -> None:  # noqa: FBT001 - a parameter of the test
    for sql in statements(TOTAL):
        expected, got = run(pair.one, sql, binary=binary), run(pair.proxy, sql, binary=binary)
        assert not expected.sqlstate, f"{sql}: {expected.message}"
        assert got == expected, sql


WRITES = """
insert into customers (id, name) values (900, 'a'), (901, 'b'), (902, 'c'), (903, 'd');
insert into customers (id, name) values (900, 'again'), (904, 'e') on conflict (id) do update set name =
  excluded.name;
insert into customers (id, name) values (901, 'again'), (905, 'f') on conflict do nothing;
insert into orders (customer_id, id, total) select id, 77, 5 from customers where id >= 900;
update customers set vip = true where id >= 900;
update customers set vip = false where id in (900, 902);
update orders o set total = o.total + 1 from customers c where c.id = o.customer_id and c.vip;
update orders set note = (select c.name from customers c where c.id = orders.customer_id) where id = 77;
update customers c set name = n.name from countries n where n.id = 1 and c.id in (903, 904);
update countries set rate = rate + 1 where id = 3;
insert into countries values (9, 'Niue', 3) on conflict (id) do nothing;
delete from orders o using customers c where c.id = o.customer_id and c.name = 'b';
delete from countries where id = 9;
delete from orders where id = 77 and customer_id = 902;
with x as (delete from orders where customer_id = 903 returning *) insert into order_items select customer_id, id,
  'w', 1, 1 from x where customer_id = 903;
merge into customers c using (select 'm' as n) s on c.id = 905 when matched then update set name = s.n;
update customers set id = 1000 where id = 1;
insert into customers (id, name) values (1 + 1, 'x');
insert into customers (id, name) values (2, 'x');
insert into orders (customer_id, id) values (123456, 1);
insert into settings (name, value) values ('c', 'z');
update settings set value = 'y' where name = 'c';
truncate order_items;
delete from orders where customer_id >= 900;
delete from customers where id >= 900;
"""
CHECKS = ("select * from customers order by id", "select * from orders order by customer_id, id",
          "select * from order_items order by 1, 2, 3", "select * from countries order by id",
          "select name, value from settings order by name")  # fmt: skip


def test_writes_change_the_same_rows(pair: Pair) -> None:
    refused = []
    for sql in statements(WRITES):
        got = run(pair.proxy, sql)
        if got.sqlstate == "0A000":
            refused.append(sql)
            continue
        expected = run(pair.one, sql)
        assert (got.sqlstate, got.tag) == (expected.sqlstate, expected.tag), f"{sql}: {got.message}"
        for check in CHECKS:
            assert run(pair.proxy, check).rows == run(pair.one, check).rows, sql
    assert refused == [
        "update customers set id = 1000 where id = 1",
    ]
