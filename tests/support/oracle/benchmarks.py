"""Rows of the benchmark-like schemas: TPC-H's tables, very small, and a star schema in the manner of TPC-DS."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from oracle.values import inserts, maybe

if TYPE_CHECKING:
    import random

_NATIONS = [
    "ALGERIA",
    "ARGENTINA",
    "BRAZIL",
    "CANADA",
    "EGYPT",
    "ETHIOPIA",
    "FRANCE",
    "GERMANY",
    "INDIA",
    "INDONESIA",
    "IRAN",
    "IRAQ",
    "JAPAN",
    "JORDAN",
    "KENYA",
    "MOROCCO",
    "MOZAMBIQUE",
    "PERU",
    "CHINA",
    "ROMANIA",
    "SAUDI ARABIA",
    "VIETNAM",
    "RUSSIA",
    "UNITED KINGDOM",
    "UNITED STATES",
]
_REGIONS = ["AFRICA", "AMERICA", "ASIA", "EUROPE", "MIDDLE EAST"]
_PRIORITIES = ["1-URGENT", "2-HIGH", "3-MEDIUM", "4-NOT SPECIFIED", "5-LOW"]
_SEGMENTS = ["AUTOMOBILE", "BUILDING", "FURNITURE", "MACHINERY", "HOUSEHOLD"]
_MODES = ["AIR", "AIR REG", "RAIL", "SHIP", "TRUCK", "MAIL", "FOB"]
_BOXES = ["SM CASE", "SM BOX", "MED BAG", "MED BOX", "LG CASE", "LG BOX", "JUMBO PACK", "WRAP JAR"]
_KINDS = [["PROMO", "STANDARD", "ECONOMY", "MEDIUM"], ["POLISHED", "ANODIZED", "PLATED"], ["BRASS", "STEEL", "TIN"]]
_INSTRUCTIONS = ["DELIVER IN PERSON", "COLLECT COD", "NONE", "TAKE BACK RETURN"]


def _money(chance: random.Random, low: int, high: int) -> str:
    return f"{chance.randrange(low * 100, high * 100) / 100:.2f}"


def tpch(chance: random.Random) -> list[str]:
    """Return the INSERTs of schema tpch."""

    def phone(nation: int) -> str:
        return f"{nation + 10}-{chance.randrange(100, 999)}-{chance.randrange(100, 999)}-{chance.randrange(1000, 9999)}"

    def day() -> dt.date:
        return dt.date(1993, 1, 1) + dt.timedelta(days=chance.randrange(1900))

    suppliers = []
    for n in range(1, 25):
        nation = chance.randrange(25)
        remark = "the Customer often Complaints here" if n % 11 == 0 else "quick deliveries"
        suppliers.append(
            (n, f"Supplier#{n:09d}", f"addr {n}", nation, phone(nation), _money(chance, -900, 9000), remark)
        )
    colours = ["green", "forest", "almond", "ivory", "blue"]
    parts = [
        (
            n,
            f"{chance.choice(colours)} {chance.choice(colours)} {n}",
            f"Manufacturer#{n % 5 + 1}",
            f"Brand#{n % 5 + 1}{n % 3 + 1}",
            " ".join(map(chance.choice, _KINDS)),
            chance.choice([1, 5, 9, 15, 23, 45, 49]),
            chance.choice(_BOXES),
            _money(chance, 100, 2000),
            "p",
        )
        for n in range(1, 61)
    ]
    offers = [
        (p, s, chance.randrange(1, 2000), _money(chance, 1, 900), "ps")
        for p in range(1, 61)
        for s in chance.sample(range(1, 25), 3)
    ]
    customers = []
    for n in range(1, 61):
        nation = chance.randrange(25)
        customers.append(
            (
                n,
                f"Customer#{n:09d}",
                f"addr {n}",
                nation,
                phone(nation),
                _money(chance, -900, 9000),
                chance.choice(_SEGMENTS),
                "c",
            )
        )
    orders, items = [], []
    for n in range(1, 301):
        date = day()
        remark = "special packages requests" if n % 13 == 0 else "ordinary"
        orders.append(
            (
                n,
                chance.choice([c for c in range(1, 61) if c % 3]),
                chance.choice("OFP"),
                _money(chance, 800, 400000),
                date,
                chance.choice(_PRIORITIES),
                f"Clerk#{n % 9:09d}",
                0,
                remark,
            )
        )
        for line in range(1, chance.randrange(2, 6)):
            shipped = date + dt.timedelta(days=chance.randrange(1, 120))
            promised = date + dt.timedelta(days=chance.randrange(30, 90))
            items.append(
                (
                    n,
                    chance.randrange(1, 61),
                    chance.randrange(1, 25),
                    line,
                    chance.randrange(1, 50),
                    _money(chance, 900, 90000),
                    f"0.0{chance.randrange(10)}",
                    f"0.0{chance.randrange(9)}",
                    chance.choice("RAN"),
                    chance.choice("OF"),
                    shipped,
                    promised,
                    shipped + dt.timedelta(days=chance.randrange(1, 30)),
                    chance.choice(_INSTRUCTIONS),
                    chance.choice(_MODES),
                    "l",
                )
            )
    return [
        *inserts("tpch.region", [(n, name, "r") for n, name in enumerate(_REGIONS)]),
        *inserts("tpch.nation", [(n, name, n % 5, "n") for n, name in enumerate(_NATIONS)]),
        *inserts("tpch.supplier", suppliers),
        *inserts("tpch.part", parts),
        *inserts("tpch.partsupp", offers),
        *inserts("tpch.customer", customers),
        *inserts("tpch.orders", orders),
        *inserts("tpch.lineitem", items),
    ]


def star(chance: random.Random) -> list[str]:
    """Return the INSERTs of schema ds."""
    first = dt.date(2000, 1, 1)
    days = [first + dt.timedelta(days=7 * n) for n in range(110)]
    dates = [
        (n, day, day.year, day.month, day.day, (day.month + 2) // 3, day.strftime("%A"))
        for n, day in enumerate(days, 1)
    ]
    items = [
        (
            n,
            f"ITEM{n:04d}",
            f"thing {n}",
            maybe(chance, _money(chance, 1, 99)),
            f"brand{n % 4}",
            f"class{n % 3}",
            ("Books", "Home", "Music", None)[n % 4],
            n % 5,
        )
        for n in range(1, 31)
    ]
    people = [
        (
            n,
            f"CUST{n:04d}",
            maybe(chance, chance.randrange(1, 9)),
            maybe(chance, chance.randrange(1, 26)),
            f"First{n % 7}",
            f"Last{n % 11}",
            maybe(chance, 1930 + n),
        )
        for n in range(1, 51)
    ]
    homes = [(n, ("CA", "TX", "GA", None)[n % 4], f"{85600 + n % 6}", "United States") for n in range(1, 26)]
    demographics = [(n, "MF"[n % 2], "SMWDU"[n % 5], ("College", "Primary", "Unknown")[n % 3]) for n in range(1, 9)]
    sales = []
    for n in range(260):
        quantity, price = chance.randrange(1, 90), chance.randrange(100, 9000)
        sales.append(
            (
                maybe(chance, chance.randrange(1, 111), 0.04),
                chance.randrange(1, 31),
                maybe(chance, chance.randrange(1, 51), 0.06),
                chance.randrange(1, 9),
                maybe(chance, chance.randrange(1, 6)),
                chance.randrange(1, 4),
                n // 3,
                quantity,
                f"{price * 1.2 / 100:.2f}",
                f"{price / 100:.2f}",
                f"{quantity * price / 100:.2f}",
                maybe(chance, _money(chance, 0, 50)),
                _money(chance, -500, 900),
            )
        )
    returns = [
        (chance.randrange(1, 111), sale[1], sale[2], sale[4], sale[6], chance.randrange(1, 20), _money(chance, 1, 500))
        for sale in chance.sample(sales, 70)
    ]
    web = [
        (
            chance.randrange(1, 111),
            chance.randrange(1, 31),
            maybe(chance, chance.randrange(1, 51), 0.06),
            chance.randrange(1, 90),
            _money(chance, 1, 90),
            _money(chance, 1, 900),
            _money(chance, -300, 700),
        )
        for _ in range(160)
    ]
    stock = [
        (date, item, house, maybe(chance, chance.randrange(0, 900)))
        for date in range(1, 111, 12)
        for item in range(1, 31)
        for house in (1, 2)
    ]
    return [
        *inserts("ds.date_dim", dates),
        *inserts("ds.item", items),
        *inserts("ds.customer", people),
        *inserts("ds.customer_address", homes),
        *inserts("ds.customer_demographics", demographics),
        *inserts(
            "ds.store",
            [
                (n, f"S{n}", ("ese", "ought", "able")[n % 3], ("TN", "CA")[n % 2], f"county {n % 2}")
                for n in range(1, 6)
            ],
        ),
        *inserts("ds.promotion", [(1, "N", "N"), (2, "Y", "N"), (3, "N", "Y")]),
        *inserts("ds.store_sales", sales),
        *inserts("ds.store_returns", returns),
        *inserts("ds.web_sales", web),
        *inserts("ds.inventory", stock),
    ]
