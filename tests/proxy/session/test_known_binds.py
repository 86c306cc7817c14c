"""What is learned of pipelines, so that those like them need not be read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from proxy.description import Description
from proxy.session.known_binds import KnownBind
from proxy.session.prepared import PreparedStatement
from proxy.wire.frontend import Bind, Describe, Execute, Sync
from proxy.wire.pipeline import read_pipeline
from router.cluster import Database
from router.plan import AnyShard, Single, Statement
from router.planned import PlannedStatements
from router.shortcut import KeyedBind, Shortcuts

PATH = ("public",)
TEXT = "SELECT a FROM t WHERE b > $1"


def without_a_key(shards: tuple[str, ...]) -> KnownBind:
    shortcuts = Shortcuts(PlannedStatements(10), Database("d", shards, 0), PATH, functions=False, entries=10)
    statement = Statement(TEXT, Single(AnyShard(), writes=False), "SELECT")
    prepared: Any = PreparedStatement(
        b"p", TEXT.encode(), (), statement, Description((20,), ()), 1, PATH, SimpleNamespace()
    )
    known = KnownBind(prepared, shortcuts, SimpleNamespace(statements=()))
    known.reads_key(KeyedBind("", -1), "")
    return known


def pipeline(value: bytes) -> bytes:
    return b"".join(
        one.encode() for one in (Bind(b"", b"p", (), (value,)), Describe(b"P", b""), Execute(b"", 0), Sync())
    )


def learn(known: KnownBind, value: bytes) -> None:
    data = pipeline(value)
    cut = read_pipeline(data)
    assert cut is not None
    known.learn(data, cut)


@pytest.mark.parametrize(("shards", "taken"), [(("s0",), True), (("s0", "s1"), False)])
def test_before_one_shard_no_parameter_has_to_be_the_key(shards: tuple[str, ...], *, taken: bool) -> None:
    known = without_a_key(shards)
    learn(known, b"17")
    assert (known.matched(pipeline(b"123456")) == 0) is taken
    assert known.matched(pipeline(b"text")) is None


def test_what_has_no_shape_is_not_looked_at_for_ever() -> None:
    known = without_a_key(("s0",))
    for number in range(50):
        learn(known, b"text %d" % number)
    learn(known, b"17")
    assert known.matched(pipeline(b"123456")) is None
