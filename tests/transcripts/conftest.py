"""One Postgres and a proxy before one shard or two: the same tables, as they were at the start of each sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.conftest import MakeDatabases, StartProxy

SCHEMA = """
    CREATE TABLE notes (k int8 PRIMARY KEY, v text, n int4 CHECK (n >= 0));
    CREATE TABLE plain (id int4 PRIMARY KEY, v text);
    CREATE TABLE wanting (id int4 PRIMARY KEY, other int4 REFERENCES plain DEFERRABLE INITIALLY DEFERRED);
    CREATE FUNCTION noisy(text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE NOTICE 'noise: %', $1 USING DETAIL = 'a detail', HINT = 'a hint'; RETURN $1; END $$;
"""
CONTENT = """
    TRUNCATE notes, plain, wanting;
    INSERT INTO notes SELECT k, 'v' || k, k FROM generate_series(1, 9) k;
    INSERT INTO plain VALUES (1, 'one'), (2, 'two');
"""


class Pair:
    """`direct` and `through` are the two DSNs, `filled` is where the tables are made besides, `shards` all servers."""

    def __init__(self, direct: str, through: str, filled: str, shards: Sequence[str]) -> None:
        self.direct = direct
        self.through = through
        self.filled = [psycopg.connect(dsn, autocommit=True) for dsn in (direct, filled)]
        self._shards = [psycopg.connect(dsn, autocommit=True) for dsn in shards]
        self.execute(SCHEMA)
        self.execute(CONTENT)

    def execute(self, statements: str) -> None:
        for connection in self.filled:
            connection.execute(statements.encode())

    def fill(self) -> None:
        """Make the content what it was at first, where it is not."""
        for shard in self._shards:
            left = shard.execute("SELECT gid FROM pg_prepared_xacts").fetchall()
            assert not left, "a sequence left a prepared transaction behind"
        for connection in self.filled:
            state = connection.execute(
                "SELECT (SELECT string_agg(n::text, '' ORDER BY k) FROM notes), (SELECT string_agg(v, '' ORDER BY id)"
                " FROM plain), (SELECT count(*) FROM wanting)"
            ).fetchone()
            if state != ("123456789", "onetwo", 0):
                connection.execute(CONTENT.encode())

    def close(self) -> None:
        for connection in (*self.filled, *self._shards):
            connection.close()


@pytest.fixture(scope="module")
def kept_pair(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Pair]:
    (direct,) = make_module_databases(1, "direct")
    (shard,) = make_module_databases(1, "shard")
    proxy = start_module_proxy([shard], {"notes": {"key": "k"}}, functions={"noisy": "pure"})
    pair = Pair(direct, proxy.dsn(shard.rpartition("/")[2]), shard, [direct, shard])
    yield pair
    pair.close()


@pytest.fixture
def pair(kept_pair: Pair) -> Pair:
    kept_pair.fill()
    return kept_pair


@pytest.fixture(scope="module")
def kept_spread(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Pair]:
    (direct,) = make_module_databases(1, "direct")
    shards = make_module_databases(2, "shard")
    tables: dict[str, object] = {"notes": {"key": "k"}, "wanting": {"key": "id"}, "plain": "reference"}
    proxy = start_module_proxy(shards, tables, functions={"noisy": "pure"})
    through = proxy.dsn(shards[0].rpartition("/")[2])
    pair = Pair(direct, through, through, [direct, *shards])
    yield pair
    pair.close()


@pytest.fixture
def spread(kept_spread: Pair) -> Pair:
    """The rows are on two shards, and on each a copy of `plain`."""
    kept_spread.fill()
    return kept_spread
