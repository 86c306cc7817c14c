"""The message loop: a client that never pauses leaves turns to the others."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from proxy.connection import ClientConnection, Lane
from proxy.session.loop import TURN_MESSAGES, serve_session
from proxy.wire.frames import frame

if TYPE_CHECKING:
    import pytest

    from proxy.session.session import Session

MESSAGES = 10 * TURN_MESSAGES


async def _close() -> None:
    pass


class _Sessions:
    """The set of sessions, for one that has no hash."""

    def add(self, _: object) -> None: ...

    def discard(self, _: object) -> None: ...


class _NoLane(Lane):
    """A lane that takes nothing: here nothing arrives that it could take."""

    statement_under_way = None

    def __init__(self, *_: object) -> None:
        super().__init__()

    def arm(self) -> None: ...

    def expect_nothing(self) -> None: ...

    def leave(self) -> None: ...


async def test_a_full_inbox_does_not_keep_the_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it has arrived already, so that nothing the loop awaits ever has to wait."""
    monkeypatch.setattr("proxy.session.loop.QuickLane", _NoLane)
    connection = ClientConnection(lambda _: None, 1 << 20)
    connection.start_frames()
    connection.data_received(frame(b"d", b"left over from a COPY") * MESSAGES + frame(b"X", b""))
    session: Any = SimpleNamespace(
        connection=connection,
        transaction=SimpleNamespace(cancel_requested=False, shard_count=1, pinned={}),
        client_lost=lambda: None,
        database=SimpleNamespace(
            sessions=_Sessions(), session_ended=lambda _: None, logical=SimpleNamespace(shards=("s0",))
        ),
        meter=SimpleNamespace(arrived=lambda: None, over=lambda: None),
        in_query=False,
        anew=SimpleNamespace(pending=False, comes=lambda *_: None, over=lambda _: None),
        clocks=None,
        close=_close,
    )
    serving = asyncio.ensure_future(serve_session(cast("Session", session)))
    waiting = []
    while not serving.done():
        await asyncio.sleep(0)
        waiting.append(len(connection.inbox))
    await serving
    assert waiting[-1] == 0
    steps = [before - after for before, after in zip([MESSAGES + 1, *waiting], waiting, strict=False)]
    assert max(steps) <= TURN_MESSAGES
