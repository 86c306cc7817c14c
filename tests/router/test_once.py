"""Statements that fire a trigger FOR EACH STATEMENT of a sharded table, by themselves or by way of foreign keys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.planner import Planner
from router.relation import ForeignKey, Trigger
from shop import public, shop

INSERT = "insert into orders (customer_id, id) values (1, 2)"
MERGE = "merge into orders o using orders p on o.customer_id = p.customer_id and o.id = p.id"
OF_ITEMS = frozenset({"insert", "update", "delete", "truncate"})


def planner(action: str) -> Planner:
    """Items belong to orders (by ``action``, a letter of pg_constraint), and have a trigger for statements."""
    catalog = shop()
    orders, items = (catalog.relation("public", name) for name in ("orders", "order_items"))
    assert orders is not None
    assert items is not None
    key = ForeignKey("of", ("customer_id", "order_id"), orders.name, ("customer_id", "id"), action, action)
    changed = {
        orders.name: replace(orders, referenced_by=((items.name, key),)),
        items.name: replace(items, foreign_keys=(key,), triggers=(Trigger("counted", OF_ITEMS, row=False),)),
    }
    relations = tuple(changed.get(relation.name, relation) for relation in catalog.relations)
    return Planner(catalog.database, replace(catalog, relations=relations))


@pytest.mark.parametrize(
    ("action", "text", "fires"),
    [
        ("c", "delete from orders where total > 5", True),
        ("n", "delete from orders where total > 5", True),
        ("a", "delete from orders where total > 5", False),
        ("c", "update orders set id = id + 1", True),
        ("c", "update orders set total = 5", False),
        ("a", "update orders set id = id + 1", False),
        ("c", INSERT, False),
        ("c", f"{INSERT} on conflict (customer_id, id) do update set id = 3", True),
        ("c", f"{INSERT} on conflict (customer_id, id) do update set total = 3", False),
        ("c", f"{MERGE} when matched then update set id = 7", True),
        ("c", f"{MERGE} when matched then delete", True),
        ("c", "with gone as (delete from orders where customer_id = 5 returning id) select * from gone", True),
        ("c", "truncate orders cascade", True),
        ("a", "truncate orders cascade", True),
        ("c", "select * from orders", False),
        ("c", "delete from order_items where qty > 5", True),
    ],
)  # fmt: skip
def test_a_trigger_for_statements_is_seen_behind_foreign_keys(action: str, text: str, *, fires: bool) -> None:
    (statement,) = planner(action).plan(text)
    assert statement.once == ("counted" if fires else "")


def test_a_trigger_before_an_update_may_change_what_is_referred_to() -> None:
    catalog = planner("c").catalog
    orders = catalog.relation("public", "orders")
    assert orders is not None
    before = replace(orders, triggers=(Trigger("moved", frozenset({"update"}), timing="before"),))
    relations = tuple(before if one.name == orders.name else one for one in catalog.relations)
    (statement,) = Planner(catalog.database, replace(catalog, relations=relations)).plan("update orders set total = 5")
    assert statement.once == "counted"


def test_tables_that_refer_to_each_other_end() -> None:
    """A ring of cascades is walked once."""
    catalog = shop()
    orders = catalog.relation("public", "orders")
    assert orders is not None
    key = ForeignKey("of", ("customer_id", "id"), public("orders"), ("customer_id", "id"), "c", "c")
    ring = replace(orders, referenced_by=((orders.name, key),))
    triggered = replace(ring, triggers=(Trigger("emptied", frozenset({"truncate"}), row=False),))
    relations = tuple(triggered if one.name == orders.name else one for one in catalog.relations)
    made = Planner(catalog.database, replace(catalog, relations=relations))
    (statement,) = made.plan("delete from orders where total > 5")
    assert statement.once == ""
