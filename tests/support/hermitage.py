"""Isolation anomalies as interleaved sessions, in the manner of Kleppmann's Hermitage: the cases and their runner.

A case is a list of steps ``(session, statement)``. A step whose session waits for a lock lets the next ones go on. In
statements ``{a}`` and ``{b}`` are the keys of two rows (values 10 and 20), ``{c}`` and ``{d}`` keys without rows, and
``{seen}`` what the session read last. The runner returns what each step gave; a case's ``shows`` says whether that is
the anomaly.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PATIENCE_SECONDS = 20.0
POLL_SECONDS = 0.005
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
COMMIT, ROLLBACK = "COMMIT", "ROLLBACK"


@dataclass
class Told:
    """What the sessions were told: by step, and the rows at the end."""

    steps: list[str] = field(default_factory=list)
    rows: list[list[tuple[Any, ...]]] = field(default_factory=list)
    final: dict[str, int] = field(default_factory=dict)  # by the key's letter

    def read(self, step: int) -> list[int]:
        """Return the values that a SELECT gave, in order."""
        return sorted(row[0] for row in self.rows[step])

    @property
    def errors(self) -> list[str]:
        """SQLSTATEs, without those of statements in a block that had failed already."""
        return sorted({told for told in self.steps if len(told) == 5 and told[:2] in {"40", "0A", "55"}})

    @property
    def committed(self) -> int:
        return self.steps.count(COMMIT)


Steps = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Case:
    name: str
    words: str
    steps: Steps
    shows: Callable[[Told], bool]
    levels: Sequence[str] = LEVELS


@dataclass
class Place:
    """Where a case is run: how clients connect, the servers behind that, and the keys by their letters."""

    dsn: str
    servers: Sequence[str]
    keys: Mapping[str, int]

    def reset(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as client:
            client.execute("DELETE FROM test")
            client.execute(f"INSERT INTO test VALUES ({self.keys['a']}, 10), ({self.keys['b']}, 20)")


def run(case: Case, level: str, place: Place) -> Told:
    """Run a case and return what was told."""
    place.reset()
    told = Told()
    with ExitStack() as stack:
        looks = [stack.enter_context(closing(psycopg.connect(dsn, autocommit=True))) for dsn in place.servers]
        sessions = {name: _Session(place, level, stack) for name in dict.fromkeys(who for who, _ in case.steps)}
        futures: list[Future[tuple[str, list[tuple[Any, ...]]]]] = []
        for who, text in case.steps:
            session = sessions[who]
            session.until_free()
            futures.append(session.submit(text))
            _until_quiet(futures, looks)
        for future in futures:
            step, rows = future.result(PATIENCE_SECONDS)
            told.steps.append(step)
            told.rows.append(rows)
    with psycopg.connect(place.dsn, autocommit=True) as client:
        values = dict(client.execute("SELECT id, value FROM test").fetchall())
    told.final = {letter: values[key] for letter, key in place.keys.items() if key in values}
    return told


class _Session:
    """A client with a thread of its own."""

    def __init__(self, place: Place, level: str, stack: ExitStack) -> None:
        self._keys = place.keys
        self._client = stack.enter_context(closing(psycopg.connect(place.dsn, autocommit=True)))
        self._client.execute("SET lock_timeout = '15s'")
        self._thread = stack.enter_context(ThreadPoolExecutor(1))
        self._begin = f"BEGIN ISOLATION LEVEL {level}"
        self._begun = False
        self._last: Future[Any] | None = None
        self._seen: Any = None

    def until_free(self) -> None:
        if self._last is not None:
            self._last.result(PATIENCE_SECONDS)

    def submit(self, text: str) -> Future[Any]:
        self._last = self._thread.submit(self._run, text)
        return self._last

    def _run(self, text: str) -> tuple[str, list[tuple[Any, ...]]]:
        try:
            if not self._begun:
                self._client.execute(self._begin.encode())
                self._begun = True
            cursor = self._client.execute(text.format(**self._keys, seen=self._seen).encode())
        except psycopg.Error as error:
            return error.sqlstate or "lost", []
        rows = cursor.fetchall() if cursor.description else []
        if rows:
            self._seen = rows[0][0]
        return str(cursor.statusmessage), rows


def _until_quiet(futures: Sequence[Future[Any]], looks: Sequence[psycopg.Connection[Any]]) -> None:
    """Wait until every step has ended, or one waits for a lock (of another one: nothing else runs here)."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(future.done() for future in futures):
        if any(look.execute(WAITING).fetchone() != (0,) for look in looks):
            return
        assert time.monotonic() < deadline, "a step neither ends nor waits for a lock"
        time.sleep(POLL_SECONDS)


def _mixed(told: Told) -> bool:
    return (told.final["a"], told.final["b"]) in {(11, 22), (12, 21)}


def select(*letters: str) -> str:
    """Return a SELECT of rows by key."""
    keys = ", ".join(f"{{{letter}}}" for letter in letters)
    return (
        f"SELECT value FROM test WHERE id IN ({keys})"
        if len(letters) > 1
        else f"SELECT value FROM test WHERE id = {keys}"
    )


def update(letter: str, value: object) -> str:
    """Return an UPDATE of a row by key."""
    return f"UPDATE test SET value = {value} WHERE id = {{{letter}}}"


ALL = "SELECT value FROM test"
THIRDS = "SELECT value FROM test WHERE value % 3 = 0"

CASES = (
    Case(
        "G0",
        "write cycle: two transactions write the same rows in turn",
        (
            ("T1", update("a", 11)),
            ("T2", update("a", 12)),
            ("T1", update("b", 21)),
            ("T1", COMMIT),
            ("T2", update("b", 22)),
            ("T2", COMMIT),
        ),
        _mixed,
    ),
    Case(
        "G1a",
        "aborted read",
        (("T1", update("a", 101)), ("T2", ALL), ("T1", ROLLBACK), ("T2", ALL), ("T2", COMMIT)),
        lambda told: 101 in told.read(1) + told.read(3),
    ),
    Case(
        "G1b",
        "intermediate read",
        (("T1", update("a", 101)), ("T2", ALL), ("T1", update("a", 11)), ("T1", COMMIT), ("T2", ALL), ("T2", COMMIT)),
        lambda told: 101 in told.read(1) + told.read(4),
    ),
    Case(
        "G1c",
        "circular information flow",
        (
            ("T1", update("a", 11)),
            ("T2", update("b", 22)),
            ("T1", select("b")),
            ("T2", select("a")),
            ("T1", COMMIT),
            ("T2", COMMIT),
        ),
        lambda told: told.read(2) == [22] or told.read(3) == [11],
    ),
    Case(
        "OTV",
        "observed transaction vanishes: a reader sees one row of a transaction, then the time before in another",
        (
            ("T1", update("a", 11)),
            ("T1", update("b", 19)),
            ("T2", update("a", 12)),
            ("T1", COMMIT),
            ("T3", select("a")),
            ("T2", update("b", 18)),
            ("T3", select("b")),
            ("T2", COMMIT),
            ("T3", select("b")),
            ("T3", COMMIT),
        ),
        lambda told: told.read(4) == [11] and 20 in told.read(6) + told.read(8),
    ),
    Case(
        "PMP",
        "predicate-many-preceders: a second look at a predicate finds a row that was inserted meanwhile",
        (
            ("T1", "SELECT value FROM test WHERE value = 30"),
            ("T2", "INSERT INTO test VALUES ({c}, 30)"),
            ("T2", COMMIT),
            ("T1", THIRDS),
            ("T1", COMMIT),
        ),
        lambda told: told.read(3) == [30],
    ),
    Case(
        "PMP write",
        "the same with writes: a DELETE by predicate misses a row that came to match it while it waited",
        (
            ("T1", "UPDATE test SET value = value + 10"),
            ("T2", ALL),
            ("T2", "DELETE FROM test WHERE value = 20"),
            ("T1", COMMIT),
            ("T2", "SELECT value FROM test WHERE value = 20"),
            ("T2", COMMIT),
        ),
        lambda told: told.steps[2] == "DELETE 0",
    ),
    Case(
        "P4",
        "lost update: both read, both write, both commit",
        (
            ("T1", select("a")),
            ("T2", select("a")),
            ("T1", update("a", 11)),
            ("T2", update("a", 12)),
            ("T1", COMMIT),
            ("T2", COMMIT),
        ),
        lambda told: told.committed == 2,
    ),
    Case(
        "G-single",
        "read skew: a reader sees one row before a transaction, another one after it",
        (
            ("T1", select("a")),
            ("T2", update("a", 12)),
            ("T2", update("b", 18)),
            ("T2", COMMIT),
            ("T1", select("b")),
            ("T1", COMMIT),
        ),
        lambda told: told.read(4) == [18],
    ),
    Case(
        "G-single predicate",
        "the same, by predicates",
        (
            ("T1", "SELECT value FROM test WHERE value % 5 = 0"),
            ("T2", "UPDATE test SET value = 12 WHERE value = 10"),
            ("T2", COMMIT),
            ("T1", THIRDS),
            ("T1", COMMIT),
        ),
        lambda told: told.read(3) == [12],
    ),
    Case(
        "G-single write",
        "the same, and then the reader deletes by what it has read",
        (
            ("T1", select("a")),
            ("T2", ALL),
            ("T2", update("a", 12)),
            ("T2", update("b", 18)),
            ("T2", COMMIT),
            ("T1", "DELETE FROM test WHERE value = 20"),
            ("T1", COMMIT),
        ),
        lambda told: told.steps[5] == "DELETE 0" and told.steps[6] == COMMIT,
    ),
    Case(
        "G2-item",
        "write skew: each reads what the other one writes",
        (
            ("T1", select("a", "b")),
            ("T2", select("a", "b")),
            ("T1", update("a", 11)),
            ("T2", update("b", 21)),
            ("T1", COMMIT),
            ("T2", COMMIT),
        ),
        lambda told: told.committed == 2,
    ),
    Case(
        "G2",
        "the same, by a predicate and inserts",
        (
            ("T1", THIRDS),
            ("T2", THIRDS),
            ("T1", "INSERT INTO test VALUES ({c}, 30)"),
            ("T2", "INSERT INTO test VALUES ({d}, 42)"),
            ("T1", COMMIT),
            ("T2", COMMIT),
        ),
        lambda told: told.committed == 2,
    ),
    Case(
        "G2 two edges",
        "a reader sees an order of two writers that cannot be (Fekete's read-only anomaly)",
        (
            ("T1", ALL),
            ("T2", "UPDATE test SET value = value + 5 WHERE id = {b}"),
            ("T2", COMMIT),
            ("T3", ALL),
            ("T3", COMMIT),
            ("T1", update("a", 0)),
            ("T1", COMMIT),
        ),
        lambda told: told.committed == 3 and told.read(3) == [10, 25],
    ),
    # Our own rows.
    Case(
        "lost update under FOR UPDATE",
        "who has waited for a lock on one row reads, and writes back, the other row as it was before",
        (
            ("T1", select("a") + " FOR UPDATE"),
            ("T1", update("b", 120)),
            ("T1", update("a", 11)),
            ("T2", select("a") + " FOR UPDATE"),
            ("T1", COMMIT),
            ("T2", select("b")),
            ("T2", update("b", "{seen} + 50")),
            ("T2", COMMIT),
        ),
        lambda told: told.final["b"] != 170 and told.committed == 2,
    ),
    Case(
        "G-single through one writer",
        "a reader sees the effect (in a row of the other shard) of a transaction that it has not seen",
        (
            ("R", select("a")),
            ("S", update("a", 11)),
            ("S", COMMIT),
            ("M", select("a")),
            ("M", update("b", 21)),
            ("M", COMMIT),
            ("R", select("b")),
            ("R", COMMIT),
        ),
        lambda told: told.read(0) == [10] and told.read(6) == [21],
    ),
    Case(
        "long fork",
        "two readers see two independent writes in different orders",
        (
            ("P", select("a")),
            ("S", update("a", 11)),
            ("S", COMMIT),
            ("Q", select("a", "b")),
            ("W", update("b", 21)),
            ("W", COMMIT),
            ("P", select("b")),
            ("Q", select("a", "b")),
            ("P", COMMIT),
            ("Q", COMMIT),
        ),
        lambda told: told.read(0) == [10] and told.read(6) == [21] and told.read(7) == [11, 20],
    ),
)
