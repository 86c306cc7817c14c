"""Planning a long text takes as much longer as the text is longer."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING

import pytest

from router.planner import Planner
from router.statement import parse
from shop import shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CATALOG = shop(2)
TIMES = 16
#: Sixteen times the text may take fifty times as long on a busy machine; what is quadratic takes two hundred and more.
MOST = 50 / TIMES


@pytest.fixture(autouse=True)
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def insert(value: str) -> Callable[[int], str]:
    head = "insert into customers (id, name) values "
    return lambda count: head + ", ".join(f"({number}, {value})" for number in range(count))


def more(function: Callable[[str], object], text: Callable[[int], str], few: int) -> float:
    """Return how many times as much CPU time a piece of a longer text takes; the least of several calls."""
    least = []
    for count in (few, few * TIMES):
        long, found = text(count), []
        for _ in range(2):
            begun = time.thread_time()
            function(long)
            found.append(time.thread_time() - begun)
        least.append(min(found) / count)
    return least[1] / least[0]


@pytest.mark.parametrize("value", ["'a'::text", "now()::text", "upper('ä')"])
def test_no_plan_takes_more_than_its_length(value: str) -> None:
    assert more(Planner(CATALOG.database, CATALOG).plan, insert(value), 80) < MOST


def test_letters_beyond_ascii_take_no_more_than_their_length() -> None:
    def read(text: str) -> None:
        (parsed,) = parse(text)
        places = [parsed.place(body["location"]) for _, body in parsed.nodes if "location" in body]
        assert len(parsed.tokens) > len(places)

    assert more(read, insert("upper('äöü')"), 300) < MOST


def test_statements_are_cut_in_one_go() -> None:
    assert more(parse, lambda count: "; ".join(f"select 'ä', {number}" for number in range(count)), 500) < MOST
