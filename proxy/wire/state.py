"""The state table of the protocol: which message a client may send when, and where that leads.

Rules
-----
1. Everything the protocol allows is in the two tables below. A key that is missing from CLIENT *is* a protocol
   violation by the client; a key that is missing from SERVER *is* a bug of ours (LookupError). No ``if`` anywhere adds
   to the tables.
2. The tables speak of types alone. Bodies are the business of frontend.py, values (transaction status, portals, names)
   of the session.

Theory of operation
-------------------
A Postgres server takes one message, does all that it asks, writes all its answers, and only then looks at the next one.
What a client sends meanwhile waits unread. So there is one state, not one for each side. It moves when the server
*takes* a message (CLIENT) and when it *says* something that changes what may come next (SERVER).

Three things end in ReadyForQuery: Query, FunctionCall, Sync. Taking one leads to ANSWERING, whose row in CLIENT is
empty: nothing is taken before ReadyForQuery leads back to READY. The other extended messages lead to PIPELINE, where
more of them, and even a Query, may follow; an error there leads to SKIPPING, which throws away everything until Sync.
COPY is entered from a statement and has to lead back to where that statement came from, so its states come in two: one
within a Query, one within a pipeline.

A verdict says what to do with the message that was taken: TAKE it, or DROP it without reading its body (Postgres does
not look into those either: late CopyData after an error, Sync and Flush inside COPY, what comes before Sync after an
error).

Shown against PostgreSQL 18 by tests/proxy/wire/test_postgres.py. Postgres's own manual has this in prose:
https://www.postgresql.org/docs/18/protocol-flow.html
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from proxy.wire.errors import ProtocolViolation, desynchronized
from proxy.wire.frontend import (
    Bind,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    Parse,
    PasswordMessage,
    Query,
    Sync,
    Terminate,
)
from proxy.wire.startup import CancelRequest, GSSENCRequest, SSLRequest, StartupMessage

if TYPE_CHECKING:
    from collections.abc import Mapping


class State(Enum):
    """What the server will take next."""

    STARTUP = "no session yet: untyped packets"
    AUTHENTICATION = "the startup message was taken: password messages until ReadyForQuery"
    READY = "idle, between queries (in a transaction or not): anything may begin"
    ANSWERING = "a Query, FunctionCall or Sync is being answered: nothing is taken before ReadyForQuery"
    PIPELINE = "extended messages, no Sync yet"
    SKIPPING = "a message of the pipeline failed: all is thrown away until Sync"
    COPY_IN = "COPY FROM STDIN of a Query: the client streams"
    COPY_OUT = "COPY TO STDOUT of a Query: the server streams"
    PIPELINE_COPY_IN = "COPY FROM STDIN of an Execute"
    PIPELINE_COPY_OUT = "COPY TO STDOUT of an Execute"
    TERMINATED = "nothing more, in either direction"


class Verdict(Enum):
    """What to do with a message that may come."""

    TAKE = "read it and do what it asks"
    DROP = "throw it away unread"


class Said(Enum):
    """What the server says that changes what it will take next; all else it says changes nothing."""

    READY_FOR_QUERY = "ReadyForQuery"
    ERROR = "ErrorResponse with severity ERROR"
    FATAL = "ErrorResponse with severity FATAL, or the socket is closed"
    COPY_IN = "CopyInResponse"
    COPY_OUT = "CopyOutResponse"
    COPY_DONE = "CopyDone, at the end of COPY TO STDOUT"


_Row = dict[int, tuple[Verdict, State]]

_PIPELINED = (Parse.TYPE, Bind.TYPE, Describe.TYPE, Execute.TYPE, Close.TYPE, Flush.TYPE)
_ANSWERED = (Query.TYPE, FunctionCall.TYPE, Sync.TYPE)
_COPIED = (CopyData.TYPE, CopyDone.TYPE, CopyFail.TYPE)

_TAKE_ANSWERED: _Row = dict.fromkeys(_ANSWERED, (Verdict.TAKE, State.ANSWERING))
_TAKE_PIPELINED: _Row = dict.fromkeys(_PIPELINED, (Verdict.TAKE, State.PIPELINE))
_LEAVE: _Row = {Terminate.TYPE: (Verdict.TAKE, State.TERMINATED)}


def _drop(types: tuple[int, ...], state: State) -> _Row:
    return dict.fromkeys(types, (Verdict.DROP, state))


def _copy_in(here: State, back: State) -> _Row:
    return {
        CopyData.TYPE: (Verdict.TAKE, here),
        CopyDone.TYPE: (Verdict.TAKE, back),
        CopyFail.TYPE: (Verdict.TAKE, back),  # the server answers with an error, which leads on
        **_drop((Flush.TYPE, Sync.TYPE), here),
    }


# state -> type of a client's message (packet code before the session) -> what to do with it, and where it leads
CLIENT: Mapping[State, Mapping[int, tuple[Verdict, State]]] = {
    State.STARTUP: {
        SSLRequest.CODE: (Verdict.TAKE, State.STARTUP),
        GSSENCRequest.CODE: (Verdict.TAKE, State.STARTUP),
        CancelRequest.CODE: (Verdict.TAKE, State.TERMINATED),
        StartupMessage.CODE: (Verdict.TAKE, State.AUTHENTICATION),
    },
    State.AUTHENTICATION: {PasswordMessage.TYPE: (Verdict.TAKE, State.AUTHENTICATION)},
    State.READY: {**_TAKE_ANSWERED, **_TAKE_PIPELINED, **_drop(_COPIED, State.READY), **_LEAVE},
    State.ANSWERING: {},
    State.PIPELINE: {**_TAKE_ANSWERED, **_TAKE_PIPELINED, **_drop(_COPIED, State.PIPELINE), **_LEAVE},
    State.SKIPPING: {
        **_drop((*_PIPELINED, *_COPIED, Query.TYPE, FunctionCall.TYPE), State.SKIPPING),
        Sync.TYPE: (Verdict.TAKE, State.ANSWERING),
        **_LEAVE,
    },
    State.COPY_IN: _copy_in(State.COPY_IN, State.ANSWERING),
    State.COPY_OUT: {},
    State.PIPELINE_COPY_IN: _copy_in(State.PIPELINE_COPY_IN, State.PIPELINE),
    State.PIPELINE_COPY_OUT: {},
    State.TERMINATED: {},
}

# state -> what the server says -> where that leads
SERVER: Mapping[State, Mapping[Said, State]] = {
    State.STARTUP: {Said.FATAL: State.TERMINATED},
    State.AUTHENTICATION: {Said.READY_FOR_QUERY: State.READY, Said.FATAL: State.TERMINATED},
    State.READY: {Said.FATAL: State.TERMINATED},
    State.ANSWERING: {
        Said.READY_FOR_QUERY: State.READY,
        Said.ERROR: State.ANSWERING,
        Said.COPY_IN: State.COPY_IN,
        Said.COPY_OUT: State.COPY_OUT,
        Said.FATAL: State.TERMINATED,
    },
    State.PIPELINE: {
        Said.ERROR: State.SKIPPING,
        Said.COPY_IN: State.PIPELINE_COPY_IN,
        Said.COPY_OUT: State.PIPELINE_COPY_OUT,
        Said.FATAL: State.TERMINATED,
    },
    State.SKIPPING: {Said.FATAL: State.TERMINATED},
    State.COPY_IN: {Said.ERROR: State.ANSWERING, Said.FATAL: State.TERMINATED},
    State.COPY_OUT: {Said.COPY_DONE: State.ANSWERING, Said.ERROR: State.ANSWERING, Said.FATAL: State.TERMINATED},
    State.PIPELINE_COPY_IN: {Said.ERROR: State.SKIPPING, Said.FATAL: State.TERMINATED},
    State.PIPELINE_COPY_OUT: {
        Said.COPY_DONE: State.PIPELINE,
        Said.ERROR: State.SKIPPING,
        Said.FATAL: State.TERMINATED,
    },
    State.TERMINATED: {},
}

# The states in which the server looks at what the client sent. In the others it is left unread.
TAKING: frozenset[State] = frozenset(state for state, row in CLIENT.items() if row)


class ProtocolState:
    """Where one session stands: tell it each message before its body is read, and each answer that Said names."""

    __slots__ = ("state",)

    def __init__(self, state: State = State.STARTUP) -> None:
        self.state = state

    def client(self, type: int) -> Verdict:  # noqa: A002 - the protocol's word
        """Take a client's message: its type byte, or a startup packet's CODE. Out of turn it is a ProtocolViolation.

        Call it only in a state of TAKING: in the others a server leaves messages unread.
        """
        if self.state not in TAKING:
            raise LookupError(f"message type {type} was taken while {self.state.value}")
        step = CLIENT[self.state].get(type)
        if step is None:
            raise _out_of_turn(self.state, type)
        self.state = step[1]
        return step[0]

    def server(self, said: Said) -> None:
        """Note what we said; LookupError if it could not be said here."""
        following = SERVER[self.state].get(said)
        if following is None:
            raise LookupError(f"{said.value} was sent while {self.state.value}")
        self.state = following


def _out_of_turn(state: State, kind: int) -> ProtocolViolation:
    """Make Postgres's complaint: all of these end the connection, because its reader stops in mid-message."""
    if state is State.AUTHENTICATION:
        return desynchronized(f"expected SASL response, got message type {kind}")
    if state in (State.COPY_IN, State.PIPELINE_COPY_IN):
        return desynchronized(f"unexpected message type 0x{kind:02X} during COPY from stdin")
    return desynchronized(f"invalid frontend message type {kind}")
