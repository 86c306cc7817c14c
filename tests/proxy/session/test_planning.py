"""Long texts are planned beside the loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.session import planning
from proxy.turns import beside
from router.errors import Refused
from router.plan import Constant, Empty, SplitInsert, Statement
from router.planned import PlannedStatements
from router.planner import Planner
from shop import shop

if TYPE_CHECKING:
    from proxy.session.session import Session

LONG = "select 1 " + " " * planning.LONG_CHARACTERS
PATH = ("public",)


class Waiting:
    """A planner that is done when the loop has had a turn meanwhile."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.turn = threading.Event()

    def plan(self, text: str, path: tuple[str, ...], oids: tuple[int, ...]) -> tuple[Statement, ...]:
        self.begun.set()
        assert self.turn.wait(20)
        return tuple([Statement(text=said, plan=Empty(), tag="") for said in (text, *path, *map(str, oids))])


class Database:
    """What a session's database knows of plans."""

    def __init__(self, planner: Any) -> None:
        self.planner = planner
        self.catalog_version = 1
        self.planned = PlannedStatements(100)
        self.logical = shop(3).database
        self.misplaced = ""


def session_of(planner: Any, inside: Any = None) -> Session:
    found = SimpleNamespace(
        hiding=False, search_path=PATH, database=Database(planner), planner_in_block=inside, recode=None
    )
    return cast("Session", found)


async def let_it_end(planner: Waiting) -> None:
    assert await asyncio.to_thread(planner.begun.wait, 20)
    planner.turn.set()


@pytest.mark.parametrize("in_block", [False, True])
async def test_the_loop_goes_on(in_block: bool) -> None:  # noqa: FBT001 - of parametrize
    planner = Waiting()
    session = session_of(None, planner) if in_block else session_of(planner)
    found, _ = await asyncio.gather(planning.plan(session, LONG, (23,)), let_it_end(planner))
    assert [statement.text for statement in found] == [LONG, "public", "23"]
    kept = session.database.planned.known_text(LONG, PATH, (23,))
    assert kept == (None if in_block else found)


async def test_plans_of_a_catalog_that_is_gone_are_not_kept() -> None:
    planner = Waiting()
    session = session_of(planner)

    async def change() -> None:
        cast("Any", session).database.catalog_version += 1
        await let_it_end(planner)

    await asyncio.gather(planning.plan(session, LONG), change())
    assert len(session.database.planned.texts) == 0


@pytest.mark.parametrize("fails", [False, True])
async def test_nobody_looks_for_garbage_meanwhile(fails: bool) -> None:  # noqa: FBT001 - of parametrize
    def look() -> bool:
        if fails:
            raise ValueError
        return gc.isenabled()

    assert gc.isenabled()
    found = await asyncio.gather(beside(look), return_exceptions=True)
    assert isinstance(found[0], ValueError) if fails else found == [False]
    assert gc.isenabled()


async def test_a_refusal_comes_through() -> None:
    catalog = shop(3)
    session = session_of(Planner(catalog.database, catalog))
    with pytest.raises(Refused):
        await planning.plan(session, LONG + "from customers, pgchorus.placement")


class Noting:
    """A planner that notes in which thread it planned what."""

    def __init__(self) -> None:
        catalog = shop(3)
        self.real = Planner(catalog.database, catalog)
        self.beside: list[tuple[str, bool]] = []

    def plan(self, text: str, path: tuple[str, ...], oids: tuple[int, ...]) -> tuple[Statement, ...]:
        self.beside.append((text, threading.current_thread() is not threading.main_thread()))
        return self.real.plan(text, path, oids)


async def test_a_template_of_some_length_is_learned_beside_the_loop() -> None:
    """The first of its texts is planned at once, the second with two more beside the loop, and no other."""
    planner = Noting()
    session = session_of(planner)
    columns = ", ".join(f"id as column_{'abcdefghijklmnopqrst'[number]}_of_many" for number in range(20))
    texts = [f"select {columns} from customers where id = {key}" for key in range(4)]
    assert planning.LEARNED_CHARACTERS < len(texts[0]) < planning.LONG_CHARACTERS
    for text in texts:
        assert await planning.plan(session, text) == planner.real.plan(text)
    assert [beside for _, beside in planner.beside] == [False, True, True, True]


async def test_what_is_short_is_planned_at_once_and_a_merge_is_not() -> None:
    planner = Noting()
    session = session_of(planner)
    short = [f"select id from customers where id = {key}" for key in range(4)]
    merge = "MERGE INTO customers c USING orders o ON c.id = o.customer_id WHEN MATCHED THEN DELETE"
    for text in (*short, merge, merge):
        assert await planning.plan(session, text) == planner.real.plan(text)
    assert [beside for _, beside in planner.beside] == [False] * 4 + [True]


async def test_rows_find_their_shards() -> None:
    catalog = shop(3)
    (statement,) = Planner(catalog.database, catalog).plan(
        "insert into customers (id) values " + ", ".join(f"({number})" for number in range(planning.LONG_ROWS + 1))
    )
    plan = statement.plan
    assert isinstance(plan, SplitInsert)
    assert plan.keys[-1] == Constant(planning.LONG_ROWS)
    found = await planning.resolved(session_of(None), plan)
    assert found == await planning.resolved(session_of(None), plan)
    assert len(getattr(found, "tasks", ())) == 3
