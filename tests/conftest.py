"""Real servers for tests: embedded PostgreSQL 18, fresh databases on them, and the proxy as a process.

Each xdist worker has servers of its own, so a test may stop or kill one (`servers[i].kill()`); the next test that asks
for databases finds it up again. Which fixture for what:

- `shard_databases`: DSNs of a fresh database of one name on each of the four servers (take the first n for n shards).
- `make_databases`: the same as a function, for another number of shards or several sets.
- `single_dsn`: a fresh database on one server, the oracle that holds all the rows.
- `start_proxy`: writes a configuration and runs `pgchorus serve` on it, killed at the end of the test.
- `module_databases`, `start_module_proxy`: the same, once per module, for tests that do not disturb each other.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, Protocol

import hypothesis
import pytest

from databases import create_databases, drop_databases
from preloaded import Preloaded
from proxy.demo.embedded import EmbeddedServer, start_all, stop_all
from proxy_process import ProxyProcess, write_config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SERVERS = 4

# The same examples in every run (the long forms choose seeds and print them), and no limit of time for one of them: a
# machine that is busy with something else has made tests fail that were right.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")

_serial = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute by itself begins first: the others are shared out meanwhile, and nobody waits for it."""
    items.sort(key=lambda item: item.path.name != "test_drivers.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than processors: many tests wait, for a deadlock's timeout or a server that comes back."""
    return len(os.sched_getaffinity(0)) + 1


class MakeDatabases(Protocol):
    """Make a fresh database on the first `count` servers; return their DSNs. All have one name, new each time."""

    def __call__(self, count: int = SERVERS, prefix: str = "test") -> list[str]: ...


class StartProxy(Protocol):
    """Start a proxy before shards (DSNs); the logical database has the name of the shards' own."""

    def __call__(self, shards: Sequence[str], tables: Mapping[str, Any] | None = None, **more: Any) -> ProxyProcess: ...


def database_of(dsn: str) -> str:
    """Return the database's name in a DSN that these fixtures made."""
    return dsn.rpartition("/")[2]


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> Iterator[None]:
    """Have proxies start from a process that has imported what they are made of."""
    ProxyProcess.start_from = Preloaded()
    yield
    ProxyProcess.start_from.close()
    ProxyProcess.start_from = None


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[EmbeddedServer]]:
    """Four running servers of this test process."""
    directory = tmp_path_factory.mktemp("servers")
    made = [EmbeddedServer(directory / f"s{number}", durable=False) for number in range(SERVERS)]
    start_all(made)
    try:
        yield made
    finally:
        stop_all(made)


def databases_factory(servers: list[EmbeddedServer]) -> Iterator[MakeDatabases]:
    """Hand out databases and drop every one of them at the end."""
    made: list[tuple[list[EmbeddedServer], str]] = []

    def make(count: int = SERVERS, prefix: str = "test") -> list[str]:
        name = f"{prefix}_{next(_serial)}"
        on = servers[:count]
        made.append((on, name))
        return create_databases(on, name)

    yield make
    for on, name in reversed(made):
        drop_databases(on, name)


@pytest.fixture
def make_databases(servers: list[EmbeddedServer]) -> Iterator[MakeDatabases]:
    """Return a function that makes databases for this test."""
    yield from databases_factory(servers)


@pytest.fixture
def shard_databases(make_databases: MakeDatabases) -> list[str]:
    """DSNs of four fresh databases of one name, one on each server."""
    return make_databases()


@pytest.fixture
def single_dsn(make_databases: MakeDatabases) -> str:
    """The DSN of a fresh database of its own: one Postgres that holds all the rows."""
    return make_databases(1, "single")[0]


@pytest.fixture(scope="module")
def make_module_databases(servers: list[EmbeddedServer]) -> Iterator[MakeDatabases]:
    """Return a function that makes databases for this module."""
    yield from databases_factory(servers)


@pytest.fixture(scope="module")
def module_databases(make_module_databases: MakeDatabases) -> list[str]:
    """DSNs of four fresh databases of one name, one on each server, for a whole module."""
    return make_module_databases()


def proxy_factory(directory_of: pytest.TempPathFactory) -> Iterator[StartProxy]:
    """Start proxies; at the end kill them, and fail if one had died by itself."""
    started: list[ProxyProcess] = []

    def start(shards: Sequence[str], tables: Mapping[str, Any] | None = None, **more: Any) -> ProxyProcess:
        file = directory_of.mktemp("proxy") / "pgchorus.yaml"
        process = ProxyProcess(write_config(file, {database_of(shards[0]): shards}, tables, **more))
        started.append(process)
        process.start()
        return process

    yield start
    dead = [process.log_tail() for process in started if process.died]
    for process in reversed(started):
        process.close()
    assert not dead, "\n".join(["a proxy ended by itself;", *dead])


@pytest.fixture
def start_proxy(make_databases: MakeDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartProxy]:
    """Return a function that starts proxies for this test (they end before the databases are dropped)."""
    assert make_databases
    yield from proxy_factory(tmp_path_factory)


@pytest.fixture(scope="module")
def start_module_proxy(
    make_module_databases: MakeDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartProxy]:
    """Return a function that starts proxies for a whole module."""
    assert make_module_databases
    yield from proxy_factory(tmp_path_factory)
