"""The same few tables in one Postgres and behind the proxy, empty at the start of each test.

`town` is the pair: `town.dsn` is the proxy, `town.one` the single Postgres, `town.shards` the shards themselves. Every
test runs on three shards; those that ask for `any_town` run on one shard as well.
"""

from __future__ import annotations

import re
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxy.demo.embedded import free_port
from router.cluster import Database
from router.sharding import slot_of
from tests.conftest import databases_factory, proxy_factory
from towns import Towns
from waiting import eventually
from wire_client import Twins, WireClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from proxy.demo.embedded import EmbeddedServer
    from proxy_process import ProxyProcess
    from tests.conftest import MakeDatabases, StartProxy

TABLES = {
    "notes": {"key": "k"},
    "parents": {"key": "id"},
    "children": {"key": "parent"},
    "words": {"key": "word"},
    "kinds": "reference",
    "made": {"key": "k"},  # tests create it
    "codes": "reference",  # and this one
}
SCHEMA = (
    "CREATE TABLE notes (k int8 PRIMARY KEY, v text, n int4 CHECK (n >= 0))",
    "CREATE TABLE parents (id int8 PRIMARY KEY, name text)",
    """CREATE TABLE children (parent int8, id int8, PRIMARY KEY (parent, id), CONSTRAINT children_parent
           FOREIGN KEY (parent) REFERENCES parents DEFERRABLE INITIALLY DEFERRED)""",
    "CREATE TABLE words (word text PRIMARY KEY, n int4)",
    "CREATE TABLE kinds (id int4 PRIMARY KEY, name text)",
    "CREATE TABLE plain (id int4 PRIMARY KEY, v text)",
)
NAMES = ["notes", "parents", "children", "words", "kinds", "plain"]
USED = """
    SELECT relname FROM pg_class
    WHERE relname = ANY(%s) AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
"""
BUSY = """
    SELECT pid, state, query FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
          AND backend_type = 'client backend'
    UNION ALL
    SELECT 0, 'prepared', gid FROM pg_prepared_xacts WHERE database = current_database()
    UNION ALL
    SELECT l.pid, l.mode, c.relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
    WHERE c.relname IN ('notes', 'parents', 'children', 'plain', 'kinds', 'words') AND l.pid <> pg_backend_pid()
"""


class Town:
    """The tables in both places."""

    def __init__(self, process: ProxyProcess, one: str, shards: Sequence[str]) -> None:
        self.process = process
        self.one = one
        self.shards = list(shards)
        self.dsn = process.dsn(shards[0].rpartition("/")[2])
        self._layout = Database("town", tuple(self.shards), 0)
        self._direct = {dsn: psycopg.connect(dsn, autocommit=True) for dsn in (one, *shards)}
        self.metrics_port = 0
        self.spoiled = False  # set by what must not be handed on to another module

    def close(self) -> None:
        for connection in self._direct.values():
            connection.close()

    def shard_of(self, key: int | str) -> int:
        return self._layout.shard_of_slot(slot_of("int8" if isinstance(key, int) else "text", key, 4096))

    def keys(self, shard: int, count: int = 1) -> list[int]:
        """Return the smallest keys that live on a shard (with one shard: different ones for each number)."""
        if len(self.shards) == 1:
            return list(range(1 + shard, 1000, 3))[:count]
        return [key for key in range(1, 1000) if self.shard_of(key) == shard][:count]

    @property
    def spread(self) -> tuple[int, int, int]:
        """One key of each shard."""
        first, second, third = (self.keys(shard)[0] for shard in range(3))
        return first, second, third

    def on_shard(self, shard: int, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask a shard directly."""
        return self._direct[self.shards[shard]].execute(query.encode(), values or None).fetchall()

    def everywhere(self, query: str) -> list[list[tuple[Any, ...]]]:
        """Ask every shard directly."""
        return [self.on_shard(shard, query) for shard in range(len(self.shards))]

    def stored(self, query: str = "SELECT k, v FROM notes") -> list[tuple[Any, ...]]:
        """Return what all shards hold together, in order, read around the proxy."""
        return sorted(row for rows in self.everywhere(query) for row in rows)

    def empty(self) -> None:
        for connection in self._direct.values():
            # A table whose file is empty is as TRUNCATE would leave it.
            if used := {name for (name,) in connection.execute(USED, (NAMES,))}:
                referring = {"children"} if "parents" in used else set()
                connection.execute(("TRUNCATE " + ", ".join(used | referring)).encode())

    def direct(self, query: str) -> None:
        """Run something on every shard and on the single Postgres."""
        for connection in self._direct.values():
            connection.execute(query.encode())

    def direct_rows(self, query: str) -> list[list[tuple[Any, ...]]]:
        """Ask the single Postgres, then every shard."""
        return [connection.execute(query.encode()).fetchall() for connection in self._direct.values()]

    def busy(self) -> list[Any]:
        """Return what clients have left behind on the shards: open transactions, statements, prepared ones."""
        return [row for rows in self.everywhere(BUSY) for row in rows]


class Lane:
    """A town whose proxy is asked how many statements went by the lane."""

    def __init__(self, town: Town) -> None:
        self.town = town

    def count(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.town.metrics_port}/metrics") as page:
            found = re.search(r"^pgchorus_fast_statements_total ([0-9.e+]+)", page.read().decode(), re.MULTILINE)
        assert found is not None
        return int(float(found[1]))


def made_town(
    count: int, make_databases: MakeDatabases, start_proxy: StartProxy, *, counted: bool = False, **more: Any
) -> Iterator[Town]:
    """Make a town; `counted`: with an endpoint for metrics."""
    shards = make_databases(count, "town")
    one = make_databases(1, "one")[0]
    if counted:
        port = free_port([free_port()])  # the proxy itself takes the first
        more["metrics"] = {"host": "127.0.0.1", "port": port}
    process = start_proxy(shards, TABLES, **more)
    with closing(Town(process, one, shards)) as town:
        town.metrics_port = port if counted else 0
        for dsn in (one, town.dsn):
            with psycopg.connect(dsn, autocommit=True) as connection:
                for statement in SCHEMA:
                    connection.execute(statement.encode())
        yield town


_TOWNS = pytest.StashKey[Towns]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End the spare towns where the tests of this folder end: others may stop servers, and idle proxies cost."""
    yield
    towns = item.config.stash.get(_TOWNS, None)
    if towns is not None and (nextitem is None or nextitem.path.parent != item.path.parent):
        towns.close()


@pytest.fixture(scope="session")
def towns(
    servers: list[EmbeddedServer], tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Towns]:
    """Towns that modules hand on to each other."""

    @contextmanager
    def make(count: int, **more: Any) -> Iterator[Town]:
        with contextmanager(databases_factory)(servers) as databases:  # noqa: SIM117 - proxies end first
            with contextmanager(proxy_factory)(tmp_path_factory) as start:
                yield from made_town(count, databases, start, **more)

    with closing(Towns(make)) as made:
        request.config.stash[_TOWNS] = made
        yield made


def lent(count: int, **more: Any) -> Any:
    """Return a fixture: a town for a module."""

    @pytest.fixture(scope="module")
    def town(towns: Towns) -> Iterator[Town]:
        with towns.lend(count, **more) as lent_one:
            yield lent_one

    return town


_town_of_3 = lent(3)
_town_of_1 = lent(1)
_narrow_town = lent(3, limits={"pool": {"size": 1}})
_pair_town = lent(1, limits={"pool": {"size": 2}})
_modest_town = lent(3, limits={"gather": {"max_bytes": 20_000}})
_counted_town = lent(3, counted=True, limits={"pool": {"size": 2, "wait_timeout_s": 3}})


@pytest.fixture(scope="module", params=[3, 1], ids=["3 shards", "1 shard"])
def _any_town(request: pytest.FixtureRequest) -> Town:
    town: Town = request.getfixturevalue("_town_of_3" if request.param == 3 else "_town_of_1")
    return town


def _empty(town: Town) -> Iterator[Town]:
    town.empty()
    yield town
    try:
        eventually(lambda: not town.busy(), "something was left behind on the shards")
    except BaseException:
        town.spoiled = True
        raise


@pytest.fixture
def town(_town_of_3: Town) -> Iterator[Town]:
    """Three shards, tables empty; at the end nothing may be left open on a shard."""
    yield from _empty(_town_of_3)


@pytest.fixture
def town_of_1(_town_of_1: Town) -> Iterator[Town]:
    """One shard."""
    yield from _empty(_town_of_1)


@pytest.fixture
def any_town(_any_town: Town) -> Iterator[Town]:
    """Three shards, then one."""
    yield from _empty(_any_town)


@pytest.fixture
def narrow_town(_narrow_town: Town) -> Iterator[Town]:
    """Three shards with one link each: two clients that follow each other get the same link."""
    yield from _empty(_narrow_town)


@pytest.fixture
def pair_town(_pair_town: Town) -> Iterator[Town]:
    """One shard, two links: what two sessions pin is all there is."""
    yield from _empty(_pair_town)


@pytest.fixture
def lane(_counted_town: Town) -> Iterator[Lane]:
    """Three shards with two links each, and how many statements have gone by the fast lane."""
    for town in _empty(_counted_town):
        yield Lane(town)


@pytest.fixture
def modest_town(_modest_town: Town) -> Iterator[Town]:
    """Three shards, where no statement may gather more than 20,000 bytes."""
    yield from _empty(_modest_town)


@pytest.fixture
def connect() -> Iterator[Callable[..., WireClient]]:
    """Open clients that are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda dsn, **startup: stack.enter_context(closing(WireClient(dsn, **startup)))


@pytest.fixture
def twins(any_town: Town, connect: Callable[..., WireClient]) -> Twins:
    """A client of the single Postgres and one of the proxy, over three shards and over one."""
    return Twins(connect(any_town.one), connect(any_town.dsn))
