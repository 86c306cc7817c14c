"""What is not done over several shards is said, and nothing of it is left behind.

Sequences that a link remembers, EXPLAIN of what takes several steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Twins, WireClient

REFUSED = [
    "select currval('made_k_seq')",
    "select lastval()",
    "select k, currval('made_k_seq') from notes",
    "create materialized view copied as select ctid, * from notes",
    "explain analyze insert into notes select k + 1, v from notes",
    "explain analyze update notes set v = (select max(v) from notes)",
]
SHOWN = [
    "explain update notes set v = (select max(v) from notes)",
    "explain (route) insert into notes select k + 1, v from notes",
    "explain (route) update kinds set name = 'x'",
    "explain (route) update notes set v = (select max(v) from notes)",
]


@pytest.fixture
def client(town: Town, connect: Callable[..., WireClient]) -> Iterator[WireClient]:
    found = connect(town.dsn)
    found.rows("create table made (k bigserial primary key, v text, n serial)")
    found.rows("insert into notes values (1, 'a'), (2, 'b'), (3, 'c')")
    yield found
    found.rows("drop table made")


def test_refusals(client: WireClient, town: Town) -> None:
    before = town.everywhere("select * from notes order by k")
    for text in REFUSED:
        trace = client.query(text)
        errors = [entry[1] for entry in trace if entry[0] == "error"]
        assert [error["C"] for error in errors] == ["0A000"], (text, trace)
    assert town.everywhere("select * from notes order by k") == before
    assert town.everywhere("select count(*) from pg_class where relname = 'copied'") == [[(0,)]] * 3
    assert town.everywhere("select count(*) from made") == [[(0,)]] * 3


def test_what_is_asked_first_and_routes_are_shown(client: WireClient) -> None:
    for text in SHOWN:
        assert len(client.rows(text)) > 3, text


def test_sequences_are_unique_over_shards(client: WireClient, town: Town) -> None:
    client.rows("select setval('made_k_seq', 500)")
    for _ in range(5):
        client.rows("insert into made (v) values ('x'), ('y')")
    found = town.stored("select k, n from made")
    assert [k for k, _ in found] == list(range(501, 511))
    assert sorted(n for _, n in found) == list(range(1, 11))


@pytest.mark.parametrize("text", ["select 1{}", "select k from notes where k = 1{}"])
def test_long_chains_of_operators(twins: Twins, text: str) -> None:
    twins.query(text.format(" + 1" * 3000))
    trace = twins.proxy.query(text.format(" + 1" * 60_000))
    assert [entry[1]["C"] for entry in trace if entry[0] == "error"] == ["54001"]
    twins.query("select 1")
