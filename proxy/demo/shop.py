"""The demo's shop: its tables and where their rows live, its rows, and statements worth trying on it.

Customers, their orders and the orders' items are sharded by customer, so that everything of one customer is on one
shard; the countries are on every shard. The rows are made up by arithmetic: every demo has the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CUSTOMERS = 300
PLACEMENTS = {
    "customers": {"key": "customer_id"},
    "orders": {"key": "customer_id"},
    "order_items": {"key": "customer_id"},
    "countries": "reference",
    "pgbench_accounts": {"key": "aid"},
    "pgbench_branches": {"key": "bid"},
    "pgbench_tellers": {"key": "tid"},
    "pgbench_history": {"key": "aid"},
}

SCHEMA = """\
CREATE TABLE countries (
    code text PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE customers (
    customer_id bigint PRIMARY KEY,
    name text NOT NULL,
    country text NOT NULL REFERENCES countries,
    credit numeric(10, 2) NOT NULL
);
CREATE TABLE orders (
    customer_id bigint REFERENCES customers,
    order_id bigint,
    placed date NOT NULL,
    PRIMARY KEY (customer_id, order_id)
);
CREATE TABLE order_items (
    customer_id bigint,
    order_id bigint,
    line integer,
    product text NOT NULL,
    quantity integer NOT NULL,
    price numeric(10, 2) NOT NULL,
    PRIMARY KEY (customer_id, order_id, line),
    FOREIGN KEY (customer_id, order_id) REFERENCES orders
);
"""

COUNTRIES = {
    "AT": "Austria",
    "BR": "Brazil",
    "CH": "Switzerland",
    "DE": "Germany",
    "FR": "France",
    "GH": "Ghana",
    "IN": "India",
    "JP": "Japan",
    "NO": "Norway",
    "US": "United States",
}
_FIRST_NAMES = ("Ada", "Björn", "Chidi", "Dolores", "Emre", "Fatima", "Grace", "Hiro", "Ines", "João", "Kofi", "Lena")
_LAST_NAMES = ("Abe", "Baker", "Costa", "Diallo", "Eriksen", "Fischer", "García", "Huber", "Ivanov", "Jansen", "Kaya")
_PRODUCTS = (
    ("teapot", 2450),
    ("kettle", 3990),
    ("cup", 690),
    ("saucer", 420),
    ("spoon", 310),
    ("tray", 1850),
    ("filter", 550),
)

ONE_CUSTOMER = """SELECT name, order_id, sum(quantity * price) AS total
    FROM customers JOIN orders USING (customer_id) JOIN order_items USING (customer_id, order_id)
    WHERE customer_id = 43 GROUP BY name, order_id ORDER BY order_id;"""
ALL_CUSTOMERS = "SELECT country, count(*), avg(credit) FROM customers GROUP BY country ORDER BY 2 DESC, 1 LIMIT 5;"
TWO_SHARDS = """BEGIN; UPDATE customers SET credit = credit - 5 WHERE customer_id = 1;
    UPDATE customers SET credit = credit + 5 WHERE customer_id = 2; COMMIT;"""
TO_TRY = (
    ("one customer: one shard answers", ONE_CUSTOMER),
    ("all customers: every shard counts its own, the proxy adds up", ALL_CUSTOMERS),
    ("credit from one shard to another: committed on both or on none", TWO_SHARDS),
)


def _customers() -> Iterator[tuple[object, ...]]:
    codes = list(COUNTRIES)
    for number in range(1, CUSTOMERS + 1):
        name = f"{_FIRST_NAMES[number % len(_FIRST_NAMES)]} {_LAST_NAMES[number * 7 % len(_LAST_NAMES)]}"
        yield number, name, codes[number * number % 97 % len(codes)], f"{number * 37 % 500}.{number * 13 % 100:02}"


def _orders() -> Iterator[tuple[int, int, str]]:
    for customer in range(1, CUSTOMERS + 1):
        for order in range(1, customer * 5 % 7 + 1):
            yield customer, order, f"2026-{(customer + order) % 12 + 1:02}-{customer * order % 28 + 1:02}"


def _items() -> Iterator[tuple[object, ...]]:
    for customer, order, _ in _orders():
        for line in range(1, (customer + order) % 3 + 2):
            product, cents = _PRODUCTS[(customer * 3 + order * 5 + line) % len(_PRODUCTS)]
            yield customer, order, line, product, (customer + line) % 4 + 1, f"{cents // 100}.{cents % 100:02}"


def script() -> str:
    """Return what psql has to run to make the shop, in one transaction: it is there whole or not at all."""
    tables = {
        "countries": iter(COUNTRIES.items()),
        "customers": _customers(),
        "orders": _orders(),
        "order_items": _items(),
    }
    parts = ["BEGIN;", SCHEMA]
    for table, rows in tables.items():
        parts.append(f"COPY {table} FROM STDIN;")
        parts += ["\t".join(map(str, row)) for row in rows]
        parts.append("\\.")
    parts.append("COMMIT;\n")
    return "\n".join(parts)
