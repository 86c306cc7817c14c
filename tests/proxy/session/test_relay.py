"""Which of a shard's frames the client gets, and what the session is told of the others."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from typing import Any, cast

import pytest

from proxy.session.relay import BIND_ENDS, DESCRIBE_ENDS, EXECUTE_ENDS, PARSE_ENDS, Relay, Step
from proxy.shards.errors import ShardError, lost_link
from proxy.wire import backend
from proxy.wire.fields import ErrorFields
from proxy.wire.frames import walk

ROW = backend.data_row([b"1"])
TAG = backend.command_complete(b"SELECT 1")
READY = backend.ready_for_query(b"I")
ERROR = backend.error_response(ErrorFields.make("ERROR", "22012", "division by zero"))
NOTICE = backend.notice_response(ErrorFields.make("NOTICE", "00000", "careful"))
SETTING = backend.parameter_status("TimeZone", "UTC")
BOUND, PARSED = backend.bind_complete(), backend.parse_complete()


class Client:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes | bytearray) -> None:
        self.written += bytes(data)

    def feed_from(self, link: object) -> None:
        """Nothing: nobody pauses here."""


class Heard:
    """Parameters that were reported."""

    def __init__(self) -> None:
        self.parameters: list[tuple[str, str]] = []

    def __call__(self, name: str, value: str) -> None:
        self.parameters.append((name, value))


def relayed(
    *frames: bytes, script: list[Step] | None = None, hold: bool = False, whole: bool = True
) -> tuple[Relay, bytes]:
    """Feed frames in one chunk, or one by one; return the relay and what the client got."""
    client, heard = Client(), Heard()
    relay = Relay(cast("Any", client), heard, None if script is None else deque(script))
    relay.hold_tag = hold
    over = False
    for chunk in [b"".join(frames)] if whole else frames:
        index, rest = walk(chunk, 0, len(chunk))
        assert rest == len(chunk)
        over = relay.frames(chunk, index)
    assert over == (frames[-1] == READY)
    assert heard.parameters == ([("TimeZone", "UTC")] if SETTING in frames else [])
    return relay, client.written


@pytest.mark.parametrize("whole", [True, False])
async def test_a_simple_query_is_passed_on(whole: bool) -> None:  # noqa: FBT001 - a parameter of the test
    _, got = relayed(NOTICE, ROW, SETTING, ROW, TAG, READY, whole=whole)
    assert got == NOTICE + ROW + ROW + TAG, "without ReadyForQuery and settings, which are the session's"


@pytest.mark.parametrize("whole", [True, False])
async def test_the_tag_is_held_back(whole: bool) -> None:  # noqa: FBT001 - a parameter of the test
    relay, got = relayed(ROW, TAG, SETTING, READY, hold=True, whole=whole)
    assert got == ROW
    assert relay.tag == TAG
    assert not relay.failed


async def test_errors_are_noted() -> None:
    relay, got = relayed(ROW, ERROR, READY)
    assert got == ROW + ERROR
    assert relay.failed
    assert relay.sqlstate == "22012"


@pytest.mark.parametrize("whole", [True, False])
async def test_a_script_says_what_is_the_clients(whole: bool) -> None:  # noqa: FBT001 - a parameter of the test
    script = [
        Step(PARSE_ENDS, forward=False),
        Step(BIND_ENDS, forward=True, after=bytearray(b"own")),
        Step(EXECUTE_ENDS, forward=True),
        Step(DESCRIBE_ENDS, forward=False),
    ]
    _, got = relayed(PARSED, BOUND, NOTICE, ROW, TAG, backend.no_data(), READY, script=script, whole=whole)
    assert got == BOUND + b"own" + NOTICE + ROW + TAG


async def test_an_error_undoes_what_was_not_reached() -> None:
    undone: list[str] = []
    script = [
        Step(PARSE_ENDS, forward=False, undo=lambda: undone.append("first")),
        Step(BIND_ENDS, forward=True, undo=lambda: undone.append("second")),
        Step(PARSE_ENDS, forward=False, undo=lambda: undone.append("third")),
    ]
    relay, got = relayed(PARSED, ERROR, READY, script=script)
    assert got == ERROR
    assert undone == ["third", "second"], "what was done last is undone first"
    assert relay.failed


async def test_a_lost_link_is_raised_to_whoever_waits() -> None:
    relay, _ = relayed(ROW)
    relay.lost(ShardError(ErrorFields.make("FATAL", "57P01", "terminated"), 0))
    with pytest.raises(ShardError, match="terminated"):
        await relay.wait(cast("Any", None))


async def test_a_link_that_ends_while_nobody_waits_leaves_no_complaint_in_the_log() -> None:
    """A client that hangs up in the middle of COPY."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    relay = Relay(cast("Any", Client()), Heard())
    relay.lost(lost_link(0, "s0"))
    with pytest.raises(ShardError):
        await relay.wait(cast("Any", None))
    relay = Relay(cast("Any", Client()), Heard())
    relay.lost(lost_link(0, "s0"))
    del relay
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints
