"""The operations that are measured, by name: each is a function that does one of them."""

from __future__ import annotations

from itertools import cycle
from typing import TYPE_CHECKING

from bench.micro import distributed, lane
from proxy.wire.frames import FrameReader, walk
from proxy.wire.frontend import Query
from proxy.wire.pipeline import read_parameter, read_pipeline
from router.catalog import Catalog
from router.cluster import Database, Sharded, TableName
from router.lifting import lift
from router.planned import PlannedStatements
from router.planner import Planner
from router.relation import Column, Relation
from router.sharding import bytes_slot, integer_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from router.plan import Statement

PATH = ("public",)
ACCOUNTS = TableName("public", "pgbench_accounts")
COLUMNS = (Column("aid", "int4", 1, 23), Column("bid", "int4", 2, 23), Column("abalance", "int4", 3, 23))
UPDATE = "UPDATE pgbench_accounts SET abalance = abalance + {} WHERE aid = {};"
SLOTS = 4096


def _planner() -> Planner:
    database = Database("bench", ("s0", "s1", "s2", "s3"), 0, {ACCOUNTS: Sharded("aid")})
    return Planner(database, Catalog(database, (Relation(ACCOUNTS, columns=COLUMNS),)))


def _router() -> dict[str, Callable[[], object]]:
    planner = _planner()
    plans = PlannedStatements(1000)

    def plan(text: str) -> tuple[Statement, ...]:
        return planner.plan(text, PATH, ())

    texts = [UPDATE.format(number, number * 7919 % 1_000_003) for number in range(1, 1000)]
    for text in texts[:3]:
        plans.plan(text, PATH, (), plan)
    again = cycle(texts)
    numbers = cycle(range(1, 2_000_000, 1999))
    words = cycle([f"customer-{number}".encode() for number in range(1000)])
    return {
        "lift a text": lambda: lift(next(again)),
        "plan a text whose template is known": lambda: plans.plan(next(again), PATH, (), plan),
        "plan a text never seen before": lambda: plan(next(again)),
        "hash an integer": lambda: integer_slot(next(numbers), SLOTS),
        "hash a text": lambda: bytes_slot(next(words), SLOTS),
    }


def _wire() -> dict[str, Callable[[], object]]:
    query = Query(UPDATE.format(5, 70).encode()).encode()
    reader = FrameReader(1 << 20)
    many = lane.ANSWER * 100
    pipeline = lane.messages()["prepared"][0][0]

    def read() -> object:
        reader.feed(query)
        return reader.next()

    def cut() -> object:
        found = read_pipeline(pipeline)
        return found and read_parameter(pipeline, found.name_end + 1, found.bind_end, 1, 0)

    return {
        "cut a client's message": read,
        "walk 400 frames of answers": lambda: walk(many, 0, len(many)),
        "read a pipeline and its key": cut,
    }


async def operations() -> dict[str, Callable[[], object]]:
    """Return everything that can be measured."""
    hot = {f"point SELECT, {mode}, from socket to socket": run for mode, run in (await lane.scene()).items()}
    hot |= {f"TPC-B over 3 shards, {mode}, BEGIN to END": run for mode, run in (await distributed.scenes()).items()}
    return {**hot, **_router(), **_wire()}
