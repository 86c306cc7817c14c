"""Messages in any order, as nobody writes them: the same answers, and the session goes on.

Messages after which Postgres closes the connection have sequences of their own (sequences.FATAL, in_every_state).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.wire.frontend import Execute, Query
from transcripts import COPY_DONE, Sequence, data, fail, play, q
from wire_client import FLUSH, SYNC, bind, close, describe, difference, execute, parse

if TYPE_CHECKING:
    from tests.transcripts.conftest import Pair

EXAMPLES = 60
names = st.sampled_from(["", "s", "t"])
portals = st.sampled_from(["", "p", "r"])
texts = st.sampled_from(
    [
        "select 1",
        "select id from plain order by id",
        "select v from notes where k = 3",
        "select 1/0",
        "selec",
        "",
        "begin",
        "commit",
        "rollback",
        "insert into plain values (7, 'x')",
        "update notes set n = n + 1 where k = 4",
        "delete from plain where id = 7",
        "set timezone = 'Asia/Tokyo'",
        "show timezone",
        "savepoint a",
        "rollback to a",
        "copy plain to stdout",
        "vacuum plain",
        "deallocate s",
        "select noisy('x')",
    ]
)
messages = st.one_of(
    texts.map(q),
    st.builds(parse, texts, names),
    st.builds(lambda statement, portal: bind(statement=statement, portal=portal), names, portals),
    st.builds(bind, st.just(b"x"), statement=names),
    st.builds(describe, st.sampled_from("SP"), names),
    st.builds(execute, portals, st.sampled_from([0, 0, 1, 2])),
    st.builds(close, st.sampled_from("SP"), names),
    st.just(SYNC),
    st.just(SYNC),
    st.just(FLUSH),
    st.sampled_from([COPY_DONE, data("5\tx\n"), fail("x")]),
)


def synced(parts: list[Any]) -> tuple[Any, ...]:
    """Put Sync before each Query behind an Execute: there Postgres says status T though no block is open."""
    made: list[Any] = []
    executed = False
    for part in parts:
        if isinstance(part, Query) and executed:
            made.append(SYNC)
        executed = isinstance(part, Execute) or (executed and part is not SYNC and not isinstance(part, Query))
        made.append(part)
    return (*made, SYNC, q("rollback"), q("select 9"), q("table plain"))


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(parts=st.lists(messages, min_size=1, max_size=25))
def test_the_same_answers(kept_pair: Pair, parts: list[Any]) -> None:
    sequence = Sequence("generated", synced(parts), ignoring="W")
    kept_pair.fill()
    expected = play(kept_pair.direct, sequence)
    kept_pair.fill()
    got = play(kept_pair.through, sequence)
    assert got == expected, f"{sequence.parts}\n{difference(expected, got)}"
