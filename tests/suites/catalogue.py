"""The suites of other projects that are run through the proxy: where their tests are and how they are told of a server.

Nothing of them is copied into this tree: what fits the version that is installed is downloaded when the comparison
runs, from the package index or from the project's public repository (`sources.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DATABASE = "postgres"
USER = "postgres"


@dataclass(frozen=True, slots=True)
class Suite:
    """``keep``: what is taken out of the distribution or the repository (the package itself is the installed one).

    ``repository``: where the tests are, for projects whose source distribution has none.
    ``arguments`` are pytest's, made of host and port. ``needs`` are distributions that only the suite needs.
    ``prepare`` is SQL run in the fresh database before each run. ``passing``: how many pass at least, ``wanting``: what
    does not, on an embedded server without a proxy either, ``slow``: what `make test` leaves to `make suites`.
    """

    name: str
    distribution: str
    keep: Sequence[str]
    arguments: Callable[[str, int], list[str]]
    repository: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    prepare: Sequence[str] = ()
    passing: int = 0
    wanting: Sequence[str] = ()
    slow: Sequence[str] = ()

    @property
    def version(self) -> str:
        return version(self.distribution)


def _asyncpg(host: str, port: int) -> list[str]:
    assert host
    assert port
    return ["-c", "/dev/null", "-p", "no:asyncio", "--rootdir", ".", "--import-mode=importlib", "tests"]


def _pg8000(host: str, port: int) -> list[str]:
    assert host
    assert port
    # Its benchmarks are run once each, as tests of what they select.
    return ["-c", "/dev/null", "-p", "no:asyncio", "--benchmark-disable", "--rootdir", ".", "test"]


def _sqlalchemy(driver: str) -> Callable[[str, int], list[str]]:
    def arguments(host: str, port: int) -> list[str]:
        uri = f"postgresql+{driver}://{USER}@{host}:{port}/{DATABASE}"
        return ["--dburi", uri, "--maxfail=0", "test/dialect/postgresql", "test/dialect/test_suite.py"]

    return arguments


def _psycopg(host: str, port: int) -> list[str]:
    # The suite's own configuration makes warnings errors. Its tests of type hints run mypy and no statement; those that
    # it calls slow wait for times to pass; those of the pool are of another distribution, which has its own versions.
    dsn = f"host={host} port={port} user={USER} dbname={DATABASE}"
    configuration = ["-c", "pyproject.toml", "-p", "no:asyncio"]
    return [*configuration, "-m", "not mypy and not slow", "--ignore=tests/pool", "--test-dsn", dsn, "tests"]


_SQLALCHEMY_KEEP = ("test/", "lib/sqlalchemy/testing/plugin/", "setup.cfg", "pyproject.toml")
_SQLALCHEMY_PREPARE = (
    "CREATE SCHEMA IF NOT EXISTS test_schema",
    "CREATE SCHEMA IF NOT EXISTS test_schema_2",
    "CREATE EXTENSION IF NOT EXISTS hstore",
    "CREATE EXTENSION IF NOT EXISTS citext",
)
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "asyncpg",
            "asyncpg",
            ("tests/",),
            _asyncpg,
            needs=("distro",),
            passing=295,
            wanting=("standby", "test_target_"),  # servers of its own, not as root
            slow=("test_mypy", "test_flake8"),  # its own source
        ),
        Suite(
            "pg8000",
            "pg8000",
            ("test/",),
            _pg8000,
            needs=("pytest-mock", "pytz", "pytest-benchmark"),
            prepare=("CREATE EXTENSION IF NOT EXISTS hstore",),
            passing=765,
            # Logins that the server does not ask for, TLS, libxml; a file that lies beside the tests.
            wanting=("/auth/", "test_xml_roundtrip", "test_readme"),
            slow=("test_max_parameters",),  # most of a minute in the driver, to find 60,000 names in a text
        ),
        Suite(
            "psycopg",
            "psycopg",
            ("tests/", "tools/", "pyproject.toml"),
            _psycopg,
            repository="https://github.com/psycopg/psycopg",
            # pproxy, through which some tests connect, does not start with a later uvloop.
            needs=("anyio", "idna", "typing-extensions", "pproxy", "uvloop<0.22"),
        ),
        Suite(
            "sqlalchemy-psycopg",
            "SQLAlchemy",
            _SQLALCHEMY_KEEP,
            _sqlalchemy("psycopg"),
            prepare=_SQLALCHEMY_PREPARE,
        ),
        Suite(
            "sqlalchemy-asyncpg",
            "SQLAlchemy",
            _SQLALCHEMY_KEEP,
            _sqlalchemy("asyncpg"),
            prepare=_SQLALCHEMY_PREPARE,
        ),
    )
}
