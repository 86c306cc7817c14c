"""One Postgres, and the proxy with one shard: the same tables in both, as they were at the start of each sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    """`direct` and `through` are the two DSNs."""

    def __init__(self, direct: str, shard: str, through: str) -> None:
        self.direct = direct
        self.through = through
        self._behind = [psycopg.connect(dsn, autocommit=True) for dsn in (direct, shard)]
        self.execute(SCHEMA)
        self.execute(CONTENT)

    def execute(self, statements: str) -> None:
        for connection in self._behind:
            connection.execute(statements.encode())

    def fill(self) -> None:
        """Make the content what it was at first, where it is not."""
        for connection in self._behind:
            state = connection.execute(
                "SELECT (SELECT string_agg(n::text, '' ORDER BY k) FROM notes), (SELECT string_agg(v, '' ORDER BY id)"
                " FROM plain), (SELECT count(*) FROM wanting), (SELECT count(*) FROM pg_prepared_xacts)"
            ).fetchone()
            assert state is not None
            assert not state[3], "a sequence left a prepared transaction behind"
            if state != ("123456789", "onetwo", 0, 0):
                connection.execute(CONTENT.encode())

    def close(self) -> None:
        for connection in self._behind:
            connection.close()


@pytest.fixture(scope="module")
def kept_pair(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> Iterator[Pair]:
    (direct,) = make_module_databases(1, "direct")
    (shard,) = make_module_databases(1, "shard")
    proxy = start_module_proxy([shard], {"notes": {"key": "k"}}, functions={"noisy": "pure"})
    pair = Pair(direct, shard, proxy.dsn(shard.rpartition("/")[2]))
    yield pair
    pair.close()


@pytest.fixture
def pair(kept_pair: Pair) -> Pair:
    kept_pair.fill()
    return kept_pair
