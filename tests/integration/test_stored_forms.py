"""Definitions as Postgres prints them back, with the casts it adds: what was planned from the user's text still is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from wire_client import sqlstates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Town

    from wire_client import Twins, WireClient

    Connect = Callable[..., WireClient]

SEARCH = "generated always as (to_tsvector('english', v)) stored"
#: What makes a definition, and what takes it away again.
DEFINITIONS = {
    "a generated column for full-text search": (
        [f"alter table notes add column ts tsvector {SEARCH}"],
        ["alter table notes drop column ts"],
    ),
    "the same of a reference table": (
        [f"alter table kinds add column ts tsvector {SEARCH.replace('v)', 'name)')}"],
        ["alter table kinds drop column ts"],
    ),
    "an index for it": (
        ["create index notes_ts on notes using gin (to_tsvector('english', v))"],
        ["drop index notes_ts"],
    ),
    "a trigger of Postgres's own for it": (
        [
            "alter table notes add column ts tsvector",
            """create trigger notes_ts before insert or update on notes for each row
            execute function tsvector_update_trigger(ts, 'pg_catalog.english', v)""",
        ],
        ["alter table notes drop column ts cascade", "drop trigger notes_ts on notes"],
    ),
    "a view of it": (
        ["create view found as select k from notes where to_tsvector('english', v) @@ to_tsquery('english', 'cat')"],
        ["drop view found"],
    ),
    "a policy by a custom setting": (
        [
            "alter table notes enable row level security",
            "create policy mine on notes using (k % 5 = nullif(current_setting('app.tenant', true), '')::int)",
        ],
        ["drop policy mine on notes", "alter table notes disable row level security"],
    ),
    "a view by a custom setting": (
        ["create view of_mine as select k from notes where k % 5 = current_setting('app.tenant', true)::int"],
        ["drop view of_mine"],
    ),
    "a default by a custom setting": (
        ["alter table kinds alter name set default current_setting('app.tenant')"],
        ["alter table kinds alter name drop default"],
    ),
}
STATEMENTS = [
    "insert into notes values (1, 'a cat'), (2, 'two cats'), (3, 'dogs'), (4, 'no')",
    "insert into kinds (id) values (1)",
    "insert into kinds values (2, 'cats')",
    "update notes set v = v || ' and a cat' where k > 2",
    "delete from notes where k = 4",
    "select k from notes where to_tsvector('english'::regconfig, v) @@ 'cat' order by k",
    "select k from notes where 'cat and cats' @@ plainto_tsquery('english'::regconfig, v) order by k",
    "select k, ts_headline('english'::regconfig, v, to_tsquery('cat')) from notes order by k",
    "select k from notes where k % 5 = current_setting('app.tenant'::text, true)::int",
    "select * from notes where k = 3",
    "select * from kinds order by id",
]


@pytest.fixture
def both(twins: Twins) -> Iterator[Twins]:
    twins.query("set app.tenant = '2'")
    yield twins
    twins.query("truncate notes, kinds")


@pytest.mark.parametrize("name", DEFINITIONS)
def test_what_uses_it_is_answered_as_before(both: Twins, name: str) -> None:
    made, unmade = DEFINITIONS[name]
    for text in made:
        assert sqlstates(both.query(text)) == [], text
    try:
        asked = [f"select * from {view} order by 1" for view in ("found", "of_mine") if f"view {view} " in made[0]]
        for text in [*STATEMENTS, *asked]:
            assert sqlstates(both.query(text)) == [], text
    finally:
        for text in reversed(unmade):
            both.query(text)


def test_defaults_by_who_one_is_are_the_same_everywhere(both: Twins) -> None:
    both.query("insert into notes values (1, 'x'), (2, 'y'), (3, 'z')")
    for word in ("current_user", "session_user", "current_role", "current_schema", "user"):
        assert sqlstates(both.query(f"alter table notes add column made_by text default {word}")) == [], word
        both.query("select * from notes order by 1")
        both.query("alter table notes drop column made_by")


@pytest.mark.parametrize(
    "body",
    [
        "begin new.name := tg_relid::text; return new; end",
        "declare x oid; begin get diagnostics x = pg_routine_oid; new.name := x; return new; end",
        "declare r regclass := 'notes'; begin new.name := r::oid::text; return new; end",
        "declare o oid := 'notes'::regclass; begin new.name := o; return new; end",
        "declare r regclass[] := array['notes']; begin new.name := r[1]::oid; return new; end",
        "begin new.name := hashenum('b'::mood)::text; return new; end",
    ],
)
def test_what_counts_with_the_numbers_of_objects_is_no_copy(town: Town, connect: Connect, body: str) -> None:
    """Each server has its own; a BEFORE trigger of a reference table would write another row on each."""
    client = connect(town.dsn)
    client.rows("create type mood as enum ('a', 'b')")
    client.rows(f"create function counts() returns trigger language plpgsql as $${body}$$")
    client.query("create trigger counts before insert on kinds for each row execute function counts()")
    client.query("insert into kinds (id) values (1)")
    copies = town.everywhere("select * from kinds")
    client.rows("drop function counts() cascade; drop type mood; truncate kinds")
    assert all(copy == copies[0] for copy in copies), copies


def test_hashes_of_enums_are_the_home_shards(town: Town, connect: Connect) -> None:
    client = connect(town.dsn)
    client.rows("create type mood as enum ('a', 'b')")
    client.rows("insert into notes values " + ", ".join(f"({key}, 'x')" for key in town.spread))
    client.query("insert into kinds (id, name) values (1, hashenum('b'::mood)::text)")
    trace = client.query("select hashenum('b'::mood), hash_array(array['b'::mood]) from notes")
    copies = town.everywhere("select * from kinds")
    client.rows("drop type mood; truncate kinds")
    assert all(copy == copies[0] for copy in copies), copies
    assert sqlstates(trace) == ["0A000"]


@pytest.mark.parametrize(
    "text",
    [
        "insert into notes values (601), (602, 'y')",
        "insert into notes (k, v) values (601, 'x', 1), (602, 'y')",
        "insert into notes values (601, 'x'), (602, 'y', 'z'), (603)",
        "insert into kinds values (1), (2, 'y')",
    ],
)
def test_rows_of_several_lengths_are_an_error_wherever_they_go(twins: Twins, text: str) -> None:
    assert sqlstates(twins.query(text)) == ["42601"]
    assert sqlstates(twins.query("select * from notes")) == []


EXTENDED = ["citext", "pg_trgm", "intarray", "vector"]
EXPRESSIONS = [
    *("max(v)", "min(v)", "max(replace(v, 'a', 'b'))", "max(split_part(v, 't', 1))"),
    *("sum(k % 3)", "sum(k + 1)", "sum(-k)", "sum(k | 1)", "count(*) filter (where v ~ 'cat')", 'max("left"(v, 2))'),
    "max(regexp_replace(v, 'c', 'd'))",
]


def test_a_view_says_what_it_said_when_an_extension_has_names_of_its_own(both: Twins) -> None:
    """A plain name in a printed definition is pg_catalog's, whatever the client's path shows beside it."""
    both.query("insert into notes values (1, 'a cat'), (2, 'two cats'), (3, 'dogs'), (4, 'no')")
    for extension in EXTENDED:
        both.query(f"create extension {extension}")
    try:
        for expression in EXPRESSIONS:
            made = f"create view told as select k % 2 as g, {expression} as x from notes where k + 1 < 5 group by 1"
            assert sqlstates(both.query(made)) == [], expression
            for asked in ("select * from told order by g", "select x from told where g = 1"):
                assert sqlstates(both.query(asked)) == [], expression
            both.query("drop view told")
        both.query("create view told as select k, v from notes where nullif(k, 3) is not null")
        assert sqlstates(both.query("select k from told where k = 2")) == []
        both.query("drop view told")
    finally:
        for extension in EXTENDED:
            both.query(f"drop extension {extension}")
