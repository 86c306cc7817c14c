"""What a link is sent of a Query whose integers are bound."""

from __future__ import annotations

import re

import pytest

from proxy.wire import frontend
from proxy.wire.frames import HEADER_BYTES, walk
from proxy.wire.frontend import Bind, Describe, Execute, Parse, Query, Sync
from router.bound_query import QUERY_TAIL, BoundQuery, with_parameters
from router.catalog import Catalog
from router.cluster import Database, TableName
from router.lifting import Lifted, lift
from router.plan import ByKeys, Single, Statement
from router.planned import PlannedStatements
from router.relation import Column, Index, IndexColumn, Relation
from router.shortcut import Shortcuts

TEXT = "SELECT v FROM t WHERE k = 7"


def messages(data: bytes) -> list[object]:
    return [frontend.decode(kind, data[start + HEADER_BYTES : end]) for kind, start, end in walk(data, 0, len(data))[0]]


def bound(text: str, read_by: object = ()) -> BoundQuery:
    template, _ = lift(text) or ((), [])
    pieces = rb"(\d{1,9})".join(re.escape(piece.encode()) for piece in template)
    return BoundQuery(template, re.compile(b"Q.{4}" + pieces + b"\0", re.DOTALL).fullmatch, (read_by,))


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (TEXT, (b"7",)),
        ("SELECT v FROM t WHERE k = 000000007;", (b"000000007",)),
        ("SELECT v FROM t WHERE k = 999999999", (b"999999999",)),
        ("SELECT v FROM t WHERE 12 = k AND n = 3", (b"12", b"3")),
    ],
)
def test_messages(text: str, values: tuple[bytes, ...]) -> None:
    found = bound(text)
    name = found.name.encode()
    (parse,) = messages(found.parse)
    assert parse == Parse(name, with_parameters(lift(text)[0]).encode(), (23,) * len(values))  # type: ignore[index]
    message = Query(text.encode()).encode()
    bind, *rest = messages(found.bind(message))
    assert bind == Bind(b"", name, (), values, ())
    assert rest == [Describe(b"P", b""), Execute(b"", 0), Sync()]
    if len(values) == 1:
        assert found.heads[len(message)] + message[found.begin : found.end] + QUERY_TAIL == found.bind(message)
    else:
        assert not found.heads


def test_names_are_of_text_and_what_it_is_read_by() -> None:
    assert bound(TEXT).name == bound(TEXT.replace("7", "8")).name
    assert len({bound(TEXT).name, bound(TEXT + ";").name, bound(TEXT, 1).name}) == 3


def is_bound(text: str, *, shards: int = 2, known: bool = True) -> bool:
    plans = PlannedStatements(10)
    template, _ = lift(text) or ((), [])
    tag = text.split(maxsplit=1)[0]
    statement = Statement("", Single(ByKeys("int4", ()), writes=tag != "SELECT"), tag)
    plans.templates.put((template, ("public",)), Lifted(statement, "int4", 0))
    database = Database("d", tuple(f"s{number}" for number in range(shards)), 0)
    columns = (Column("k", "int4"), Column("v", "text"))
    table = Relation(TableName("public", "t"), columns=columns, unique=(Index("key", (IndexColumn("k"),)),))
    catalog = Catalog(relations=(table,), schemas=frozenset({"public"})) if known else None
    shortcuts = Shortcuts(plans, database, ("public",), functions=False, entries=10, catalog=catalog, version=1)
    message = Query(text.encode()).encode()
    found = shortcuts.look_up(message)
    assert found is not None
    bound = found[0].link_name != ""
    assert bound == (found[0].sent_alike(message) != message) == (found[0].parse_alike(message) != b"")
    return bound


def test_by_a_key_over_several_shards() -> None:
    assert is_bound(TEXT)
    assert not is_bound(TEXT, shards=1)
    assert not is_bound(TEXT, known=False)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT v FROM t WHERE k = -7",
        "SELECT v FROM t WHERE k = +7",
        "SELECT v FROM t WHERE k = 7 + 1",
        "SELECT 7, v FROM t WHERE k = 7",
        "SELECT v FROM t WHERE k = 7 LIMIT 1",
        "SELECT v FROM t WHERE k = 7 ORDER BY 1",
        "SELECT v FROM t WHERE k = 7 OR k = 8",
        "SELECT v FROM t WHERE k IN (7)",
        "SELECT v FROM t WHERE k = 7::int4",
        "SELECT v FROM t WHERE v = 7",
        "UPDATE t SET v = NULL WHERE k = 7",
        "DELETE FROM t WHERE k = 7",
    ],
)
def test_anything_else_goes_as_it_came(text: str) -> None:
    assert not is_bound(text)
