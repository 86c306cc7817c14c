"""TPC-B over three shards in our own code: seven messages of a client, three links, and a commit of two rounds and one.

The shards are what answers to each text that the proxy sends, and nothing else: no clock, no locks, no rows. What is
counted is everything from the client's BEGIN to its answer to END, for a transaction that writes on all three.
"""

from __future__ import annotations

import asyncio
import re
from itertools import cycle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from bench.micro.lane import OTHER_TYPES, SharedFields, Wire
from proxy.admin.counts import Counts
from proxy.admin.metrics import Metrics
from proxy.config import Log
from proxy.connection import ClientConnection
from proxy.description import Description
from proxy.session.extended import ExtendedProtocol
from proxy.session.filling import with_moments
from proxy.session.lane_quick import QuickLane
from proxy.session.own_settings import DEFAULTS
from proxy.session.prepared import PreparedStatement
from proxy.session.session import Session
from proxy.settings import SessionSettings
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.link import ShardLink
from proxy.shards.pool import LinkPool, PoolLimits
from proxy.twophase.coordinator import Coordinator
from proxy.twophase.deadlock import DeadlockDetector
from proxy.twophase.settling import Settler
from proxy.wire import backend
from proxy.wire.frames import HEADER_BYTES, walk
from proxy.wire.frontend import Bind, Describe, Execute, Query, Sync
from router.catalog import Catalog
from router.cluster import Database, Sharded, TableName
from router.planned import PlannedStatements
from router.planner import Planner
from router.relation import Column, Relation
from router.sharding import integer_slot
from router.shortcut import Shortcuts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARDS = 3
PATH = ("postgres", "public")
KEYS = {"accounts": "aid", "branches": "bid", "tellers": "tid", "history": "aid"}
COLUMNS = {
    "accounts": ("aid", "bid", "abalance"),
    "branches": ("bid", "bbalance"),
    "tellers": ("tid", "bid", "tbalance"),
    "history": ("tid", "bid", "aid", "delta"),
}
TAIL = Describe(b"P", b"").encode() + Execute(b"", 0).encode() + Sync().encode()
# The text with numbers in it, the same with parameters, and which of (aid, bid, tid, delta) these are.
STATEMENTS = [
    ("BEGIN;", ""),
    ("UPDATE pgbench_accounts SET abalance = abalance + {} WHERE aid = {};", "da"),
    ("SELECT abalance FROM pgbench_accounts WHERE aid = {};", "a"),
    ("UPDATE pgbench_tellers SET tbalance = tbalance + {} WHERE tid = {};", "dt"),
    ("UPDATE pgbench_branches SET bbalance = bbalance + {} WHERE bid = {};", "db"),
    ("INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ({}, {}, {}, {}, CURRENT_TIMESTAMP);", "tbad"),
    ("END;", ""),
]


def _said(tag: bytes, status: bytes, rows: bytes = b"") -> bytes:
    return rows + backend.command_complete(tag) + backend.ready_for_query(status)


def _row(*values: bytes | None) -> bytes:
    fields = [backend.Field(b"x", 0, 0, 25, -1, -1, 0)] * len(values)
    return backend.row_description(fields) + backend.data_row(list(values))


_TAG = backend.command_complete
_DECIDED = _row(b"") + _TAG(b"SELECT 1") + _said(b"COMMIT", b"I")
_READ = backend.row_description([backend.Field(b"abalance", 16_400, 3, 23, 4, -1, 0)]) + backend.data_row([b"-4711"])


ANSWERS = {
    "BEGIN": _said(b"BEGIN", b"T"),
    "COMMIT PREPARED": _said(b"COMMIT PREPARED", b"I"),
    "SELECT pgchorus.decide": _DECIDED,
    "SELECT": _said(b"SELECT 1", b"T", _READ),
    "INSERT": _said(b"INSERT 0 1", b"T"),
    "UPDATE": _said(b"UPDATE 1", b"T"),
}


# What is bound without being asked for its columns, by its name (proxy.session.lane_ahead, proxy.shards.bound).
_BOUND = backend.bind_complete()
AHEAD = {
    b"": _BOUND + _said(b"PREPARE TRANSACTION", b"I"),
    b"pgchorus_preparing_0": _BOUND + backend.data_row([b"0", b"1s"]) + _TAG(b"SELECT 1"),
    b"pgchorus_preparing_1": _BOUND + _TAG(b"SET CONSTRAINTS"),
    b"pgchorus_preparing_2": _BOUND + backend.data_row([b"4711", b"on", b"on"]) + _TAG(b"SELECT 1"),
    b"pgchorus_ready_0": _BOUND + backend.data_row([b"0", b"1min", b"t", b"1s"]) + _TAG(b"SELECT 1"),
    b"pgchorus_ready_2": _BOUND + _said(b"SELECT 1", b"T", backend.data_row([b"4712", b"on", b"on", b"1min"])),
    b"pgchorus_decide": _BOUND + backend.data_row([b""]) + _TAG(b"SELECT 1"),
    b"pgchorus_commit": _BOUND + _said(b"COMMIT", b"I"),
    b"pgchorus_begin": _BOUND + _TAG(b"BEGIN"),
    b"pgchorus_savepoint": _BOUND + _TAG(b"SAVEPOINT"),
    b"pgchorus_look": _BOUND + backend.data_row([b"1"]) + _TAG(b"SELECT 1"),
    b"pgchorus_release": _BOUND + _TAG(b"RELEASE"),
}
_SAID = tuple(ANSWERS.values())
# One expression: what the shards do is no part of what is counted, and should be little of it.
_beginning = re.compile(b"|".join(b"(%s)" % re.escape(text.encode()) for text in ANSWERS)).match


def _answer(text: bytes) -> bytes:
    """Return what a shard says to a statement, or to a message of several."""
    found = _beginning(text)
    assert found is not None  # noqa: S101 - it knows all that is said
    assert found.lastindex is not None  # noqa: S101 - each is a group
    return _SAID[found.lastindex - 1]


class Shard(Wire):
    """A transport whose other end knows all that the proxy may say in this transaction."""

    def __init__(self) -> None:
        super().__init__()
        self.prepared: dict[bytes, bytes] = {}  # texts by the names of statements

    def write(self, data: bytes) -> None:
        """Answer; the scene brings it."""
        for kind, start, end in walk(data, 0, len(data))[0]:
            body = data[start + HEADER_BYTES : end]
            if kind == ord("Q"):
                self.answer += _answer(body[:-1])
            elif kind == ord("C"):
                self.answer += backend.close_complete()
            elif kind == ord("P"):
                self.answer += backend.parse_complete()
            elif kind == ord("B"):
                name = body[1 : body.index(0, 1)]
                ahead = AHEAD.get(name)
                if ahead is not None:
                    self.answer += ahead
                    continue
                said = _answer(self.prepared[name])
                described = b"" if said.startswith(b"T") else backend.no_data()
                self.answer += _BOUND + described + said


class Scene:
    """A session that has run the transaction before."""

    def __init__(self) -> None:
        tables = {TableName("public", f"pgbench_{name}"): Sharded(key) for name, key in KEYS.items()}
        self.logical = Database("bench", tuple(f"s{number}" for number in range(SHARDS)), 0, tables)
        catalog = Catalog(self.logical, tuple(_relation(name) for name in COLUMNS))
        planner = Planner(self.logical, catalog)
        self.plans = PlannedStatements(100)
        self.shards = [Shard() for _ in range(SHARDS)]
        pools = [self._pool(number) for number in range(SHARDS)]
        shortcuts = Shortcuts(self.plans, self.logical, PATH, functions=False, entries=100)
        coordinator = Coordinator(cast("Any", None), cluster="bench", names=self.logical.shards)
        for number in range(SHARDS):
            coordinator._keys[number] = b"k" * 32  # noqa: SLF001 - as if it had been read
        watcher = DeadlockDetector(cast("Any", None), names=self.logical.shards, home=0)
        database: Any = SharedFields(
            misplaced="",
            definitions=SimpleNamespace(changing=False),
            logical=self.logical,
            metrics=Metrics(cast("Any", None)),
            counts=Counts(),
            log=Log(),
            tracing=None,
            read_from=DEFAULTS["read_from"],
            catalog_version=1,
            limits=SimpleNamespace(statements_unnamed=0),
            catalog=catalog,
            coordinator=coordinator,
            settler=Settler(cast("Any", None), coordinator, self.logical.shards),
            proven_settings=set(),
            shortcuts=lambda _path: shortcuts,
            pool=lambda shard, _role: pools[shard],
            release=lambda link: pools[link.shard].release(link),
            watch=watcher.watch,
            forget=watcher.forget,
            draft=lambda links, writers, identity: coordinator.draft(links, writers, random=identity.random),
        )
        self.client = Wire()
        self.connection = ClientConnection(lambda _: None, 1 << 20)
        self.connection.connection_made(cast("asyncio.Transport", self.client))
        self.connection.start_frames()
        self.session = Session(
            self.connection, database, "postgres", SessionSettings(), {"search_path": '"$user", public'}
        )
        for text, kinds in STATEMENTS:
            for number in range(4):
                text_of_one = text.format(*range(7 + number, 7 + number + len(kinds)))
                self.plans.plan(text_of_one, PATH, (), lambda one: planner.plan(one, PATH, ()))
        self._prepare(planner)
        self.lane = self.connection.lane = QuickLane(self.session, ExtendedProtocol(self.session))
        self.lane.arm()

    def _pool(self, number: int) -> LinkPool:
        endpoint = ShardEndpoint(f"s{number}", number, "postgres://postgres@127.0.0.1/bench")
        pool = LinkPool(endpoint, None, "postgres", None, PoolLimits(idle_check_s=1e9, idle_lifetime_s=1e9))
        loan: Any = SimpleNamespace(transport=self.shards[number], parameters={}, pid=1)
        link = ShardLink(endpoint, loan, "postgres", "bench")
        link.types = OTHER_TYPES
        link.lender = pool
        pool._give(link)  # noqa: SLF001 - the same
        return pool

    def _prepare(self, planner: Planner) -> None:
        """Have every statement prepared in the session and on all links."""
        session = self.session
        for number, (text, kinds) in enumerate(STATEMENTS):
            numbered = text.format(*(f"${place}" for place in range(1, len(kinds) + 1)))
            (statement,) = planner.plan(numbered, PATH, (23,) * len(kinds))
            described = Description((23,) * len(kinds), None)
            name = b"P_%d" % number
            prepared = PreparedStatement(name, numbered.encode(), (), statement, described, 1, PATH, ())
            session.statements[name] = prepared
            on_links, _ = with_moments(prepared) or (prepared, ())
            key = on_links.link_name(session.settings.applied)
            for shard in self.shards:
                shard.protocol.statements[key.decode()] = None
                shard.prepared[key] = on_links.query

    def run(self, messages: list[bytes]) -> None:
        """Run one transaction."""
        for message in messages:
            self.connection.data_received(message)
            self._bring()
            if not self.lane.armed:
                msg = f"the lane left a statement to the long road: {message!r}"
                raise RuntimeError(msg)

    def _bring(self) -> None:
        """Bring all answers, in turn, until nothing more is said."""
        said = True
        while said:
            said = False
            for shard in self.shards:
                if shard.answer:
                    answer, shard.answer = shard.answer, b""
                    shard.protocol.data_received(answer)
                    said = True

    def values(self) -> Iterator[dict[str, int]]:
        """Return keys that lie on three shards."""
        by_shard: dict[int, list[int]] = {number: [] for number in range(SHARDS)}
        for key in range(1, 2_000):
            by_shard[self.logical.shard_of_slot(integer_slot(key, self.logical.slots))].append(key)
        for number in range(200):
            aid, tid, bid = (by_shard[(number + part) % SHARDS][number] for part in range(3))
            yield {"a": aid, "t": tid, "b": bid, "d": number * 17 + 1}


def _relation(name: str) -> Relation:
    columns = [Column(column, "int4", number, 23) for number, column in enumerate(COLUMNS[name], 1)]
    if name == "history":
        columns.append(Column("mtime", "timestamp", 5, 1114))
    return Relation(TableName("public", f"pgbench_{name}"), columns=tuple(columns))


def _simple(values: dict[str, int]) -> list[bytes]:
    return [Query(text.format(*(values[kind] for kind in kinds)).encode()).encode() for text, kinds in STATEMENTS]


def _prepared(values: dict[str, int]) -> list[bytes]:
    return [
        Bind(b"", b"P_%d" % number, (), tuple(str(values[kind]).encode() for kind in kinds), ()).encode() + TAIL
        for number, (_, kinds) in enumerate(STATEMENTS)
    ]


async def scenes() -> dict[str, Callable[[], None]]:
    """Return, by mode, what runs one transaction."""
    found: dict[str, Callable[[], None]] = {}
    for mode, messages_of in (("simple", _simple), ("prepared", _prepared)):
        made = Scene()
        turn = cycle([messages_of(values) for values in made.values()])

        def run(made: Scene = made, turn: cycle[list[bytes]] = turn) -> None:
            made.run(next(turn))

        found[mode] = run
    await asyncio.sleep(0)
    return found
