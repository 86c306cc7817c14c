"""The state table, walked: every key, every missing key, every path to every state."""

from __future__ import annotations

import pytest

from proxy.wire import state as module
from proxy.wire.errors import ProtocolViolation
from proxy.wire.frames import frontend_limits
from proxy.wire.frontend import CopyData, CopyDone, Execute, Flush, Parse, PasswordMessage, Query, Sync, Terminate
from proxy.wire.startup import SSLRequest, StartupMessage
from proxy.wire.state import CLIENT, SERVER, TAKING, ProtocolState, Said, State, Verdict

TYPES = [kind for kind in range(256) if frontend_limits(100)[kind]]
CODES = list(CLIENT[State.STARTUP])
EVERY_TYPE = [*range(256), *CODES]


def test_every_state_has_its_rows() -> None:
    assert set(CLIENT) == set(SERVER) == set(State)


@pytest.mark.parametrize("state", State)
def test_every_key_of_the_table_does_what_it_says(state: State) -> None:
    for kind in EVERY_TYPE:
        machine = ProtocolState(state)
        step = CLIENT[state].get(kind)
        if step is not None:
            assert machine.client(kind) is step[0]
            assert machine.state is step[1]
        elif state in TAKING:
            with pytest.raises(ProtocolViolation) as caught:
                machine.client(kind)
            assert (caught.value.sqlstate, caught.value.fatal) == ("08P01", True)
            assert machine.state is state
        else:
            with pytest.raises(LookupError):
                machine.client(kind)
    for said in Said:
        machine = ProtocolState(state)
        following = SERVER[state].get(said)
        if following is None:
            with pytest.raises(LookupError, match=said.value):
                machine.server(said)
            assert machine.state is state
        else:
            machine.server(said)
            assert machine.state is following


def test_the_table_speaks_of_known_types_alone() -> None:
    for state, row in CLIENT.items():
        assert set(row) <= set(CODES if state is State.STARTUP else TYPES)
    used = {kind for row in CLIENT.values() for kind in row}
    assert used == {*TYPES, *CODES}


def test_what_is_dropped_leads_nowhere() -> None:
    for state, row in CLIENT.items():
        for verdict, following in row.values():
            assert verdict is Verdict.TAKE or following is state


def reachable(start: State) -> set[State]:
    found = {start}
    edge = [start]
    while edge:
        state = edge.pop()
        following = {step[1] for step in CLIENT[state].values()} | set(SERVER[state].values())
        edge += following - found
        found |= following
    return found


def test_every_state_is_reached_and_every_session_can_end() -> None:
    assert reachable(State.STARTUP) == set(State)
    for state in State:
        assert State.TERMINATED in reachable(state)
    assert reachable(State.TERMINATED) == {State.TERMINATED}


def test_every_live_session_gets_back_to_ready() -> None:
    for state in set(State) - {State.TERMINATED}:
        assert State.READY in reachable(state)


def test_before_authentication_nothing_of_a_session_is_taken() -> None:
    for state in (State.STARTUP, State.AUTHENTICATION):
        assert not set(CLIENT[state]) & {Query.TYPE, Parse.TYPE, Execute.TYPE, CopyData.TYPE, Sync.TYPE}


@pytest.mark.parametrize(
    ("state", "kind", "message"),
    [
        (State.AUTHENTICATION, Query.TYPE, "expected SASL response, got message type 81"),
        (State.AUTHENTICATION, Terminate.TYPE, "expected SASL response, got message type 88"),
        (State.READY, PasswordMessage.TYPE, "invalid frontend message type 112"),
        (State.SKIPPING, PasswordMessage.TYPE, "invalid frontend message type 112"),
        (State.COPY_IN, Query.TYPE, "unexpected message type 0x51 during COPY from stdin"),
        (State.PIPELINE_COPY_IN, Terminate.TYPE, "unexpected message type 0x58 during COPY from stdin"),
        (State.COPY_IN, ord("z"), "unexpected message type 0x7A during COPY from stdin"),
    ],
)
def test_the_complaint_is_postgres_own(state: State, kind: int, message: str) -> None:
    with pytest.raises(ProtocolViolation) as caught:
        ProtocolState(state).client(kind)
    assert caught.value.message == message


def test_a_session_from_beginning_to_end() -> None:
    machine = ProtocolState()
    trace: list[tuple[int | Said, State]] = [
        (SSLRequest.CODE, State.STARTUP),
        (StartupMessage.CODE, State.AUTHENTICATION),
        (PasswordMessage.TYPE, State.AUTHENTICATION),
        (PasswordMessage.TYPE, State.AUTHENTICATION),
        (Said.READY_FOR_QUERY, State.READY),
        (Query.TYPE, State.ANSWERING),
        (Said.COPY_IN, State.COPY_IN),
        (CopyData.TYPE, State.COPY_IN),
        (Flush.TYPE, State.COPY_IN),
        (CopyDone.TYPE, State.ANSWERING),
        (Said.ERROR, State.ANSWERING),
        (Said.READY_FOR_QUERY, State.READY),
        (CopyData.TYPE, State.READY),
        (Parse.TYPE, State.PIPELINE),
        (Execute.TYPE, State.PIPELINE),
        (Said.COPY_OUT, State.PIPELINE_COPY_OUT),
        (Said.COPY_DONE, State.PIPELINE),
        (Said.ERROR, State.SKIPPING),
        (Query.TYPE, State.SKIPPING),
        (Sync.TYPE, State.ANSWERING),
        (Said.READY_FOR_QUERY, State.READY),
        (Terminate.TYPE, State.TERMINATED),
    ]
    for step, wanted in trace:
        if isinstance(step, Said):
            machine.server(step)
        else:
            machine.client(step)
        assert machine.state is wanted, step


def test_the_file_opens_with_rules_and_theory() -> None:
    assert module.__doc__ is not None
    assert module.__doc__.index("Rules\n-----") < module.__doc__.index("Theory of operation\n---")
