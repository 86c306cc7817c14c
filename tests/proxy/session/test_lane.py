"""The fast lane over transports that only remember: whose link is paused while a client does not read."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from proxy.connection import ClientConnection
from proxy.errors import ProxyError
from proxy.fields import SessionFields
from proxy.session.lane import FastLane
from proxy.session.lane_waits import LOOKS_AGAIN
from proxy.shards.link import ShardLink
from proxy.shards.receivers import Collector
from proxy.transaction import Block
from proxy.twophase.settling import LOOK_FAILED, LOOK_UNDONE
from proxy.wire import backend
from proxy.wire.fields import ErrorFields
from proxy.wire.frontend import Query
from router.cluster import Database
from router.plan import Empty, Statement
from router.shortcut import Shortcuts

QUERY = Query(b"SELECT v::int4 FROM notes WHERE k = 1").encode()
ERROR = backend.error_response(ErrorFields.make("ERROR", "22P02", "no number"))
NOTICE = backend.notice_response(ErrorFields.make("NOTICE", "00000", "look"))
TAG = backend.command_complete(b"SELECT 0")
READY = backend.ready_for_query(b"I")


class Transport(asyncio.Transport):
    """Keeps what is written, and whether anybody reads; calls ``on_write`` where a real one would stop the writer."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.reading = True
        self.on_write = lambda: None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002 - a transport's
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)
        self.on_write()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class StandIn(SessionFields):
    """What a lane asks of a session."""

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        for name, value in fields.items():
            setattr(self, name, value)


class Scene:
    """A client whose statement is under way in its lane, on a link for which somebody else waits."""

    def __init__(self) -> None:
        self.client, self.server = Transport(), Transport()
        self.connection = ClientConnection(lambda _: None, 1 << 20)
        self.connection.connection_made(self.client)
        self.connection.start_frames()
        endpoint: Any = SimpleNamespace(index=0, name="s0")
        loan: Any = SimpleNamespace(transport=self.server, parameters={}, pid=1)
        self.link = ShardLink(endpoint, loan, "role", "town")
        self.next = Collector(self.link)
        plans: Any = SimpleNamespace(known_template=lambda *_: None, known_text=lambda *_: None)
        self.shortcuts = Shortcuts(plans, Database("town", ("s0",), 0), ("public",), functions=False, entries=1)
        self.session: Any = StandIn(
            connection=self.connection,
            database=SimpleNamespace(
                shortcuts=lambda _: self.shortcuts,
                counts=SimpleNamespace(fast=0, alone=0, alone_seconds=0.0, notable_s=9.0),
                catalog_version=1,
                limits=SimpleNamespace(statements_unnamed=0),
            ),
            transaction=SimpleNamespace(
                block=Block.NONE, links={}, finish_statement=self.hand_on, explain=lambda _: None
            ),
            settings=SimpleNamespace(applied=None),
            search_path=("public",),
            meter=SimpleNamespace(counted=lambda *_, **__: None),
            ready=lambda: self.connection.write(READY),
            count_error=lambda *_: None,
            note_effects=lambda *_: None,
            clocks=None,
            in_query=False,
            outrun=False,
        )
        extended: Any = SimpleNamespace(under_way=True)
        self.lane = FastLane(self.session, extended)
        self.lane._exchange(self.link, 0, QUERY, Statement("", Empty(), "SELECT"), QUERY, typeless=True)

    def hand_on(self) -> None:
        """The pool gives the link to the one who waits, in the same call."""
        self.link.exchange(QUERY, self.next)


@pytest.mark.parametrize("last", [ERROR, NOTICE + TAG])
async def test_a_client_that_does_not_read_pauses_no_link_of_others(last: bytes) -> None:
    """Its buffer is full with the end of its answer: by then the link is somebody else's, whom nobody would resume."""
    scene = Scene()
    scene.client.on_write = scene.connection.pause_writing
    scene.link.data_received(last + READY)
    assert scene.client.written == last + READY
    assert not scene.connection.writable
    assert scene.server.written == QUERY + QUERY
    assert scene.server.reading
    scene.link.data_received(TAG + READY)
    assert scene.next.done.done()


async def test_its_own_link_waits_for_a_client_that_does_not_read() -> None:
    scene = Scene()
    scene.connection.pause_writing()
    assert not scene.server.reading
    scene.connection.resume_writing()
    assert scene.server.reading
    scene.connection.pause_writing()
    scene.link.data_received(NOTICE + TAG + READY)
    assert scene.server.reading, "what comes next on it is for others"


async def test_a_link_is_read_again_when_its_client_has_gone() -> None:
    scene = Scene()
    scene.connection.pause_writing()
    scene.connection.connection_lost(None)
    assert scene.server.reading


async def test_on_the_long_road_too_a_link_is_paused_for_as_long_as_it_feeds_the_client() -> None:
    scene = Scene()
    connection, link, server = scene.connection, scene.link, scene.server
    link.data_received(TAG + READY)
    connection.pause_writing()
    assert server.reading, "it feeds nobody"
    connection.feed_from(link)
    assert not server.reading
    connection.resume_writing()
    assert server.reading
    connection.pause_writing()
    assert not server.reading
    connection.feed_from(None)
    assert server.reading
    connection.resume_writing()
    assert server.reading


async def test_a_look_that_has_failed_is_tried_again_and_at_last_left_to_the_session() -> None:
    """What was prepared there is most often applied a moment later; what is not is asked about."""
    scene = Scene()
    lane, counts, connection = scene.lane, scene.session.database.counts, scene.connection
    scene.session.transaction.cancel_requested = False
    failed = ProxyError(LOOK_FAILED, "division by zero")
    received, fast = connection.received, counts.fast
    lane._undone = LOOK_UNDONE
    scene.link.prefix_failed = True
    lane.lost(failed)
    assert (counts.fast, connection.received) == (fast - 1, received - len(QUERY))
    assert (scene.link.has_prefix, scene.link.prefix_failed) == (True, False)
    assert not connection.inbox, "it looks again first"
    assert scene.session.in_query
    async with asyncio.timeout(9):
        while not connection.inbox:  # noqa: ASYNC110 - the lane knows no statement here: taken up, it is the session's
            await asyncio.sleep(0)
    assert not scene.session.in_query
    assert connection.received == received
    connection.inbox.clear()

    lane._link, lane._undone, lane._looks = scene.link, LOOK_UNDONE, LOOKS_AGAIN
    lane.lost(failed)
    assert [bytes(body) for _, body in connection.inbox] == [QUERY[5:]], "it has looked often enough"
    assert not scene.session.in_query


CANCELED = backend.error_response(ErrorFields.make("ERROR", "57014", "canceling statement"))


@pytest.mark.parametrize("pieces", [(CANCELED, READY), (CANCELED + READY,)])
async def test_a_statement_that_is_run_once_more_is_told_nothing_of(pieces: tuple[bytes, ...]) -> None:
    """The end of its answer, which may come by itself, is no answer either; the session has the message."""
    scene = Scene()
    left: list[bool] = []
    scene.session.outrun = True
    scene.session.anew = SimpleNamespace(takes_in_lane=lambda _, first: first, leaves_lane=lambda: left.append(True))
    for piece in pieces:
        scene.link.data_received(piece)
    assert scene.client.written == b""
    assert left == [True]
    assert list(scene.connection.inbox) == [(ord("Q"), QUERY[5:])]
