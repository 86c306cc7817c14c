"""One client, one link and nothing between them but our own code: the hot path from a client's bytes to the answer.

The transports remember nothing and answer at once. What is left out is the kernel's part and uvloop's; what is in is
everything that a statement costs in Python.
"""

from __future__ import annotations

import asyncio
import re
from itertools import cycle
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from proxy.admin.counts import Counts
from proxy.admin.metrics import Metrics
from proxy.config import Log
from proxy.connection import ClientConnection
from proxy.description import Description
from proxy.fields import DatabaseFields
from proxy.session.extended import ExtendedProtocol
from proxy.session.lane_quick import QuickLane
from proxy.session.own_settings import DEFAULTS
from proxy.session.prepared import PreparedStatement
from proxy.session.session import Session
from proxy.settings import SessionSettings
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.link import ShardLink
from proxy.shards.pool import LinkPool, PoolLimits
from proxy.shards.types import ShardTypes
from proxy.wire import backend
from proxy.wire.frontend import Bind, Describe, Execute, Parse, Query, Sync
from proxy.wire.oids import TypeMap
from router.bound_query import BoundQuery
from router.catalog import Catalog
from router.cluster import Database, TableName
from router.lifting import Lifted, lift
from router.plan import ByKeys, Parameter, Single, Statement
from router.planned import PlannedStatements
from router.relation import Column, Index, IndexColumn, Relation
from router.sharding_noted import NOTED, noted_slots
from router.shortcut import Shortcuts

if TYPE_CHECKING:
    from collections.abc import Callable

SHARDS = 4
KEYS = range(1, 2_000_000, 1999)
PATH = ("postgres", "public")
TEXT = "SELECT abalance FROM pgbench_accounts WHERE aid = {};"
PREPARED_TEXT = "SELECT abalance FROM pgbench_accounts WHERE aid = $1;"
FIELD = backend.Field(b"abalance", 16_400, 3, 23, 4, -1, 0)
ROWS = backend.row_description([FIELD]) + backend.data_row([b"-4711"]) + backend.command_complete(b"SELECT 1")
READY = backend.ready_for_query(b"I")
ANSWER = ROWS + READY
BOUND = backend.bind_complete() + ANSWER
PARSED = backend.parse_complete() + BOUND
TAIL = Describe(b"P", b"").encode() + Execute(b"", 0).encode() + Sync().encode()


# As on any shard but home's own: some type, if only that of a table's rows, has another OID there.
OTHER_TYPES = ShardTypes(TypeMap({16_390: 16_400}, {16_400: 16_390}, {}))


class Wire:
    """A transport; ``answer`` is what the shard says to whatever is written."""

    def __init__(self) -> None:
        self.protocol: Any = None
        self.answer = b""

    def set_protocol(self, protocol: Any) -> None:
        """Remember who hears the answers."""
        self.protocol = protocol

    def get_extra_info(self, _name: str) -> None:
        """There is nothing to tell."""
        return

    def write(self, _data: bytes) -> None:
        """Forget it."""


class SharedFields(DatabaseFields):
    """What a session needs of its database."""

    def __init__(self, **given: Any) -> None:
        super().__init__()
        for name, value in given.items():
            setattr(self, name, value)


class Scene:
    """A session that has run the statement before, over four shards with one idle link each.

    ``binds``: Queries are run as prepared statements of links (router.bound_query).
    """

    def __init__(self, *, binds: bool = False) -> None:
        self.links: list[Wire] = []
        logical = Database("bench", tuple(f"s{number}" for number in range(SHARDS)), 0)
        plans = PlannedStatements(100)
        template, _ = lift(TEXT.format(1)) or ((), [])
        plans.templates.put(
            (template, PATH), Lifted(Statement("", Single(ByKeys("int4", ()), writes=False), "SELECT"), "int4", 0)
        )
        self.pools = pools = [self._pool(number) for number in range(SHARDS)]
        self.held: list[ShardLink | None] = []
        columns = (Column("aid", "int4"), Column("abalance", "int4"))
        unique = (Index("pkey", (IndexColumn("aid"),)),)
        table = Relation(TableName("public", "pgbench_accounts"), columns=columns, unique=unique)
        catalog = Catalog(logical, (table,))
        catalog.paths['"$user", public', "postgres"] = PATH
        shortcuts = Shortcuts(
            plans, logical, PATH, functions=False, entries=100, catalog=catalog if binds else None, version=1
        )
        keyed = Single(ByKeys("int4", (Parameter(1),)), writes=False)
        described = Description((23,), (FIELD,))
        database: Any = SharedFields(
            misplaced="",
            logical=logical,
            metrics=Metrics(cast("Any", None)),
            counts=Counts(),
            log=Log(),
            tracing=None,
            read_from=DEFAULTS["read_from"],
            catalog_version=1,
            catalog=catalog,
            definitions=SimpleNamespace(changing=False),
            limits=SimpleNamespace(statements_unnamed=100 if binds else 0),
            shortcuts=lambda _path: shortcuts,
            pool=lambda shard, _role: pools[shard],
            descriptions=SimpleNamespace(known=lambda *_: described),
            plan=lambda *_: (Statement(PREPARED_TEXT, keyed, "SELECT"),),
        )
        self.client = Wire()
        self.connection = ClientConnection(lambda _: None, 1 << 20)
        self.connection.connection_made(cast("asyncio.Transport", self.client))
        self.connection.start_frames()
        session = Session(self.connection, database, "postgres", SessionSettings(), {"search_path": '"$user", public'})
        statement = Statement(PREPARED_TEXT, keyed, "SELECT")
        prepared = PreparedStatement(b"P_0", PREPARED_TEXT.encode(), (), statement, described, 1, PATH, ())
        session.statements[b"P_0"] = prepared
        name = prepared.link_name(session.settings.applied).decode()
        for wire in self.links:
            wire.protocol.statements[name] = None
            if binds:
                wire.protocol.statements[BoundQuery(template, re.compile(b"").match, (PATH, 1)).name] = None
        lane = QuickLane(session, ExtendedProtocol(session))
        self.connection.lane = lane
        lane.arm()
        self.lane = lane
        integer = noted_slots(logical.slots)
        for key in KEYS:  # what is noted of small keys is noted in blocks, and not what is measured here
            if key < NOTED:
                integer.note(key)

    def hold(self) -> None:
        """Lend every link, as if others had them: whoever asks then waits in the queue."""
        self.held = [self.pools[number].take() for number in range(SHARDS)]

    def wait(self, message: bytes, answer: bytes) -> None:
        """Run one statement that waits for a link, and take that again when it is over."""
        self.connection.data_received(message)
        shard = self.lane._shard  # noqa: SLF001 - where it waits
        pool, link = self.pools[shard], cast("ShardLink", self.held[shard])
        pool.take_back(link)
        link.data_received(answer)
        if pool.take() is not link:
            msg = "the lane left a statement that waited to the long road"
            raise RuntimeError(msg)

    def _pool(self, number: int) -> LinkPool:
        endpoint = ShardEndpoint(f"s{number}", number, "postgres://postgres@127.0.0.1/bench")
        pool = LinkPool(endpoint, None, "postgres", None, PoolLimits(size=1, idle_check_s=1e9, idle_lifetime_s=1e9))
        wire = Wire()
        self.links.append(wire)
        loan: Any = SimpleNamespace(transport=wire, parameters={}, pid=1)
        link = ShardLink(endpoint, loan, "postgres", "bench")
        link.types = OTHER_TYPES
        pool.size = 1  # as if it had been opened
        link.lender = pool
        pool._give(link)  # noqa: SLF001 - the same
        return pool

    def ask(self, message: bytes, answer: bytes) -> None:
        """Run one statement."""
        self.connection.data_received(message)
        lane = self.lane
        link: Any = lane._link  # noqa: SLF001 - which of them it is
        if link is None:
            msg = "the lane left a statement to the long road"
            raise RuntimeError(msg)
        link.data_received(answer)


def messages() -> dict[str, tuple[list[bytes], bytes]]:
    """Return, by mode, a list of messages with different keys, and the answer."""
    prepared = [Bind(b"", b"P_0", (), (str(key).encode(),), ()).encode() + TAIL for key in KEYS]
    parse = Parse(b"", PREPARED_TEXT.encode(), ()).encode()
    bound = [Bind(b"", b"", (), (str(key).encode(),), ()).encode() + TAIL for key in KEYS]
    return {
        "simple": ([Query(TEXT.format(key).encode()).encode() for key in KEYS], ANSWER),
        "extended": ([parse + one for one in bound], PARSED),
        "prepared": (prepared, BOUND),
    }


async def scene() -> dict[str, Callable[[], None]]:
    """Return, by mode, what runs one statement."""
    made = Scene()
    found: dict[str, Callable[[], None]] = {}
    for mode, (asked, answer) in messages().items():
        state = {"at": 0}

        def run(asked: list[bytes] = asked, answer: bytes = answer, state: dict[str, int] = state) -> None:
            at = state["at"] = (state["at"] + 1) % len(asked)
            made.ask(asked[at], answer)

        found[mode] = run

    asked, answer = messages()["simple"]
    binding, endless = Scene(binds=True), cycle(asked)
    found["simple, bound"] = lambda: binding.ask(next(endless), BOUND)
    crowd = Scene()
    crowd.hold()
    found["simple, waiting for a link"] = lambda: crowd.wait(next(endless), answer)
    await asyncio.sleep(0)
    return found
