"""The rows of the differential schema, from one seed: NULLs, ties, edges, values equal without looking so."""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING

from oracle import benchmarks
from oracle.values import inserts, maybe

if TYPE_CHECKING:
    from collections.abc import Sequence

SEED = 20261122
_START = dt.date(2024, 1, 1)


def rows() -> list[str]:
    """Return all INSERTs."""
    chance = random.Random(SEED)
    return [*_shop(chance), *_keys(), *_types(), *_manual(chance), *benchmarks.tpch(chance), *benchmarks.star(chance)]


def _day(chance: random.Random, days: int = 700) -> dt.date:
    return _START + dt.timedelta(days=chance.randrange(days))


def _shop(chance: random.Random) -> list[str]:
    countries = [
        ("PE", "Peru", "America", 34),
        ("CL", "Chile", "America", 19),
        ("DE", "Germany", "Europe", 84),
        ("FR", "France", "Europe", 68),
        ("JP", "Japan", "Asia", 124),
        ("XX", "Nowhere", None, None),
        ("AX", "Åland", "Europe", 0),
    ]
    categories = [
        (1, None, "all"),
        (2, 1, "tools"),
        (3, 1, "food"),
        (4, 2, "saws"),
        (5, 2, "drills"),
        (6, 3, "fruit"),
        (7, 6, "apples"),
        (8, None, "lost"),
    ]
    products = [
        (
            n,
            f"product {n}",
            maybe(chance, chance.randrange(2, 9)),
            maybe(chance, f"{chance.randrange(100, 9900) / 100:.2f}"),
            chance.choice([0.5, 1, 2.25, 1e3, None]),
            chance.choice(["{a,b}", "{b}", "{}", None, "{c,a,NULL}"]),
            chance.choice(['{"color": "red"}', '{"color": "blue", "n": 1}', "{}", None, '{"n": 1.0}']),
        )
        for n in range(1, 25)
    ]
    names = ["Ana", "ana", "Bo", "Zoë", "ödön", "", "x y", "O'Neil", "Émile", "zz", "Ana "]
    cities = ["Lima", "Berlin", "Paris", "Tokyo", "Oslo"]
    keys = [-5, 0, 1, 2, 3, 5, 7, 42, 2**40, 2**53 + 1, *range(100, 142)]
    customers = [
        (
            key,
            maybe(chance, chance.choice(names)),
            f"c{key}@example.org",
            maybe(chance, chance.choice(cities)),
            maybe(chance, chance.choice(countries)[0]),
            maybe(chance, f"19{chance.randrange(50, 99)}-0{chance.randrange(1, 10)}-11"),
            maybe(chance, chance.random() < 0.4),
            maybe(chance, f"{chance.randrange(-5000, 90000) / 100:.2f}"),
            f"2024-0{chance.randrange(1, 10)}-0{chance.randrange(1, 10)} 0{chance.randrange(10)}:30:00+00",
        )
        for key in keys
    ]
    orders = [
        (
            key,
            n,
            f"2024-{chance.randrange(1, 13):02d}-{chance.randrange(1, 29):02d} 1{chance.randrange(10)}:00:00+00",
            maybe(chance, chance.choice(["new", "paid", "sent", "lost"])),
            maybe(chance, f"{chance.randrange(0, 60000) / 100:.2f}"),
            chance.choice([0.5, 0.25, 1.5, 3.0, 8.0]),
            maybe(chance, chance.choice(["gift", "Gift ", "é", "fragile"]), 0.5),
            maybe(chance, chance.randrange(-2, 9)),
        )
        for key in keys
        for n in range(1, 1 + chance.randrange(6))
    ]
    lines = [
        (
            key,
            order,
            line,
            chance.randrange(1, 28),
            chance.randrange(1, 7),
            maybe(chance, f"{chance.randrange(100, 9900) / 100:.2f}"),
            maybe(chance, chance.choice(["0.000", "0.050", "0.100"])),
        )
        for key, order, *_ in orders
        for line in range(1, 1 + chance.randrange(4))
    ]
    visits = [
        (
            maybe(chance, chance.choice(keys), 0.05),
            f"2024-06-{chance.randrange(1, 9):02d} 0{chance.randrange(10)}:00:00",
            chance.choice(["/", "/cart", "/pay", None]),
            maybe(chance, chance.randrange(0, 400, 20)),
        )
        for _ in range(160)
    ]
    employees = [
        (
            n,
            f"emp{n}",
            None if n == 1 else chance.randrange(1, n) if n > 2 else 1,
            maybe(chance, chance.choice(["dev", "ops", "law"])),
            maybe(chance, f"{chance.randrange(10, 60) * 100}.00", 0.08),
            _day(chance),
        )
        for n in range(1, 41)
    ]
    events = [
        (
            f"00000000-0000-4000-8000-{n:012d}",
            chance.choice(["login", "logout", "buy", "buy "]),
            f"2024-03-{n % 9 + 1:02d} 12:00:00+00",
            maybe(chance, chance.choice(keys)),
            chance.choice(['{"a": 1}', '{"a": 1.0, "b": [1, 2]}', "null", "[]", None]),
        )
        for n in range(60)
    ]
    return [
        *inserts("countries", countries),
        *inserts("categories", categories),
        *inserts("products", products),
        *inserts("customers", customers),
        *inserts("orders", orders),
        *inserts("order_lines", lines),
        *inserts("visits", visits),
        *inserts("employees", employees),
        *inserts("events", events),
        *inserts("departments", [("dev", 3, "100000.00"), ("ops", 1, "50000.50"), ("art", None, None)]),
        *inserts("settings", [("theme", "dark"), ("limit", "10"), ("empty", None)]),
        *inserts("audit", [(n, f"2024-01-0{n} 00:00:00+00", f"what {n}") for n in range(1, 6)]),
    ]


def _keys() -> list[str]:
    small = [-32768, -1, 0, 1, 2, 3, 10, 32767]
    middle = [-(2**31), *small, 2**31 - 1, 100_000]
    large = [-(2**63), *middle, 2**53, 2**53 + 1, 2**63 - 1]
    texts = ["", "a", "A", "a ", "a  ", "abc", "abcde", "é", "e\u0301", "b", "10", "1", "01", "null", "x'y"]
    uuids = [f"{n:08x}-0000-4000-8000-{n * 7:012x}" for n in range(12)]

    def twice(values: Sequence[object]) -> list[tuple[object, object]]:
        found = [(value, n) for n, value in enumerate(values)]
        return [*found, *[(value, n + 100) for n, value in enumerate(values) if n % 3 == 0], (None, 1), (None, None)]

    grid = [(k, a, b) for k in (None, 1, 2, 3, 4) for a, b in ((1, 2), (None, 2), (k, None))]
    return [
        *inserts("k2", twice(small)),
        *inserts("k4", twice(middle)),
        *inserts("k8", twice(large)),
        *inserts("kt", twice(texts)),
        *inserts("kv", twice([text for text in texts if len(text) <= 5])),
        *inserts("kc", twice([text for text in texts if len(text) <= 5])),
        *inserts("ku", twice(uuids)),
        *inserts("n1", grid),
        *inserts("n2", [*grid[2:11], (9, 9, 9)]),
    ]


_TYPED: list[tuple[object, ...]] = [
    (
        True,
        1,
        1,
        1,
        "1.0",
        "1.5",
        1.5,
        0.1,
        "a",
        "a",
        "a",
        "2024-01-01",
        "2024-01-01 00:00",
        "2024-01-01 00:00+00",
        "00:00",
        "1 mon",
        "00000000-0000-4000-8000-000000000001",
        "\\x00ff",
        '{"a":1}',
        '{"a":1}',
        "{1,2}",
        "{a,b}",
        "[1,5)",
        "10.0.0.1",
        "1010",
        "101",
        "1.25",
        1,
    ),
    (
        False,
        -1,
        -1,
        -1,
        "1.00",
        "-1.500",
        -1.5,
        -0.1,
        "A",
        "A",
        "A",
        "2024-02-29",
        "2024-02-29 23:59:59.999999",
        "2024-02-29 23:59:59.999999+05",
        "23:59:59",
        "30 days",
        "00000000-0000-4000-8000-000000000002",
        "\\x",
        '{"a": 1}',
        '{"a":1.0}',
        "{}",
        "{}",
        "empty",
        "10.0.0.0/8",
        "0000",
        "",
        "-3.50",
        1,
    ),
    (
        None,
        32767,
        2147483647,
        9223372036854775807,
        "NaN",
        "9999999.999",
        "NaN",
        "NaN",
        "a ",
        "a ",
        "a ",
        "infinity",
        "infinity",
        "infinity",
        "12:00",
        "720:00:00",
        "ffffffff-ffff-4fff-8fff-ffffffffffff",
        "\\xff",
        "null",
        "null",
        "{NULL,1}",
        "{NULL}",
        "(,)",
        "::1",
        "1111",
        "1",
        "0",
        2,
    ),
    (
        True,
        -32768,
        -2147483648,
        -9223372036854775808,
        "-0.0",
        "0",
        "-0",
        "-0",
        "",
        "",
        "",
        "-infinity",
        "-infinity",
        "-infinity",
        "00:00:01",
        "-1 day",
        "00000000-0000-4000-8000-000000000003",
        "\\x01",
        "[]",
        "[]",
        "{1}",
        "{b}",
        "[2,3)",
        "10.0.0.1/32",
        "0001",
        "1",
        "1.25",
        2,
    ),
    (
        False,
        0,
        0,
        0,
        "0",
        "0.000",
        0,
        0,
        "é",
        "é",
        "é",
        "1999-12-31",
        "1999-12-31 12:00",
        "1999-12-31 12:00+00",
        "12:00:00",
        "0",
        "00000000-0000-4000-8000-000000000001",
        "\\x00ff",
        '"x"',
        '"x"',
        "{2,1}",
        '{"a,b",c}',
        "[1,1]",
        "192.168.0.0/16",
        "1010",
        "10",
        "1000000.00",
        None,
    ),
    (
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
        None,
    ),
    (
        True,
        2,
        2,
        2,
        "1e20",
        "2.250",
        1e10,
        1e300,
        "b",
        "b",
        "b",
        "2024-01-01",
        "2024-01-01 12:00",
        "2024-01-01 12:00+02",
        "06:30",
        "1 year",
        "00000000-0000-4000-8000-000000000004",
        "\\xdeadbeef",
        "1",
        "1",
        "{{1,2},{3,4}}",
        "{x,y,z}",
        "[5,)",
        "10.0.0.2",
        "0110",
        "0110",
        "19.99",
        3,
    ),
    (
        True,
        2,
        2,
        2,
        "0.00000000000000000001",
        "2.25",
        0.5,
        "infinity",
        "B",
        "B",
        "B",
        "2023-12-31",
        "2023-12-31 23:00",
        "2023-12-31 23:00-01",
        "06:30:00",
        "12 mons",
        "00000000-0000-4000-8000-000000000005",
        "\\xde",
        "1.0",
        "1.0",
        "{5,6,7}",
        "{b,a}",
        "[1,5)",
        "10.0.0.3",
        "1010",
        "101",
        "19.990",
        3,
    ),
    (
        False,
        3,
        3,
        3,
        "-1.5",
        "1.000",
        0.5,
        "-infinity",
        "z",
        "z",
        "z",
        "2024-07-04",
        "2024-07-04 10:30",
        "2024-07-04 10:30+00",
        "10:30",
        "24:00:00",
        "00000000-0000-4000-8000-000000000006",
        "\\xab",
        "true",
        "true",
        "{9}",
        "{q}",
        "[0,10)",
        "172.16.0.1",
        "1001",
        "1001",
        "-0.01",
        3,
    ),
]


def _types() -> list[str]:
    typed = [(n * 3 + copy * 50, *row) for copy in range(2) for n, row in enumerate(_TYPED, 1)]
    other = [
        (1, "a", "1.00", 0.1, "2024-01-01", "30 days"),
        (2, "A", "1", "NaN", "2024-02-29", "1 mon"),
        (3, None, None, None, None, None),
        (4, "a ", "-0", "-0", "infinity", "0"),
        (5, "zz", "7", 2.5, None, "1 day"),
    ]
    words = [
        ("apple", "en", 1),
        ("Apple", "en", 2),
        ("äpfel", "de", 3),
        ("apfel", "de", 4),
        ("pomme", "fr", 5),
        ("zebra", "en", None),
        ("", None, 6),
        ("a b", "en", 7),
        ("a-b", "en", 7),
        ("ab", "en", 8),
        ("ÄPFEL", "de", 9),
        ("10", None, 10),
        ("9", None, 9),
        ("a ", "en", 1),
        ("_a", "en", 0),
    ]
    people = [
        (n, ("sad", "ok", "happy", None)[n % 4], n * 7 + 1, ("Ana", "ana", "Bo", None)[n % 4 if n % 3 else 3])
        for n in range(12)
    ]
    return [*inserts("ty", typed), *inserts("tr", other), *inserts("words", words), *inserts("people", people)]


def _manual(chance: random.Random) -> list[str]:
    towns = ["San Francisco", "Hayward", "Oakland", "Reno", "Salem"]
    weather = [
        (
            chance.choice(towns),
            30 + chance.randrange(25),
            50 + chance.randrange(40),
            maybe(chance, chance.choice([0, 0.25, 0.5, 1.5])),
            _day(chance, 60),
        )
        for _ in range(50)
    ]
    salaries = [
        (
            chance.choice(["develop", "personnel", "sales"]),
            n,
            chance.choice([3500, 3900, 4200, 4800, 5000, 5200, 6000]),
            _day(chance),
        )
        for n in range(1, 31)
    ]
    tree = [(n, None if n < 3 else chance.randrange(1, n), f"node {n}") for n in range(1, 26)]
    films = [
        (
            f"F{n:03d}",
            f"Film {n % 17}",
            chance.randrange(1, 8),
            maybe(chance, _day(chance)),
            chance.choice(["Drama", "Comedy", "Action", None]),
            maybe(chance, 60 + n % 90),
        )
        for n in range(40)
    ]
    heat = [
        (
            chance.randrange(1, 6),
            dt.date(2023, 1, 1) + dt.timedelta(days=chance.randrange(700)),
            maybe(chance, chance.randrange(-10, 40)),
            chance.randrange(0, 900),
        )
        for _ in range(80)
    ]
    return [
        *inserts("weather", weather),
        *inserts("cities", [(name, 37 + n / 4, -122 + n / 8) for n, name in enumerate([*towns[:4], "Lodi"])]),
        *inserts("empsalary", salaries),
        *inserts("accounts", [(name, "1000.00") for name in ("Alice", "Bob", "Wally", "Zed")]),
        *inserts("tree", tree),
        *inserts("films", films),
        *inserts("distributors", [(n, f"House {n}") for n in range(1, 10)]),
        *inserts("measurement", heat),
    ]
