"""Definitions that some shards have and others have not: each shard is told what it knows, and nothing is left over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import WireClient

INDEXES = "select count(*) from pg_class where relname = 'made_later'"


@pytest.fixture
def client(town: Town, connect: Callable[..., WireClient]) -> Iterator[WireClient]:
    found = connect(town.dsn)
    found.rows("create table at_home (id int primary key, up int constraint up_home references at_home deferrable)")
    found.rows("create table made (k int8 primary key, v text)")
    yield found
    found.query("rollback")
    found.rows("drop table at_home")
    found.rows("drop table made")


def test_an_index_that_was_made_concurrently_is_dropped_everywhere(client: WireClient, town: Town) -> None:
    client.rows("create index concurrently made_later on made (v)")
    assert town.everywhere(INDEXES) == [[(1,)]] * 3
    client.rows("drop index concurrently made_later")
    assert town.everywhere(INDEXES) == [[(0,)]] * 3


def test_constraints_of_home_tables_are_set_at_home(client: WireClient, town: Town) -> None:
    first, second, third = town.spread
    client.rows("begin")
    client.rows(f"insert into notes values ({second}, 'x')")  # another shard has joined before home
    client.rows("set constraints up_home deferred")
    client.rows("insert into at_home values (1, 2)")
    client.rows("insert into at_home values (2, 1)")
    client.rows("set constraints up_home, children_parent immediate")
    client.rows("set constraints children_parent, up_home deferred")
    client.rows(f"insert into children values ({third}, 1)")
    client.rows(f"insert into parents values ({third}, 'p'), ({first}, 'p')")
    client.rows("commit")
    assert client.rows("select count(*) from at_home") == [("2",)]
    client.rows("begin")
    client.rows("set constraints up_home deferred")
    client.rows("insert into at_home values (3, 9)")
    assert client.query("set constraints up_home immediate")[0][1]["C"] == "23503"
    client.rows("rollback")
