"""psql at a terminal, as a person has it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from programs import psql, run
from terminal import Terminal
from wire_client import connected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.conftest import Town


@pytest.fixture
def terminal(any_town: Town) -> Iterator[Terminal]:
    with Terminal(any_town.dsn) as opened:
        yield opened


@pytest.fixture
def beside(any_town: Town) -> Iterator[Terminal]:
    """The same at the single Postgres."""
    with Terminal(any_town.one) as opened:
        yield opened


_DATABASE = re.compile(r"\b(?:town|one)_\d+")


def fill(town: Town) -> None:
    for dsn in (town.dsn, town.one):
        with connected(dsn) as client:
            client.query("insert into notes select 1, 'x' where false")
            client.query("insert into notes values " + ", ".join(f"({key}, 'note {key}')" for key in range(1, 13)))
            client.query("insert into kinds values (1, 'one')")


def same(terminal: Terminal, beside: Terminal, line: str) -> str:
    """Say the same to both; what the server's name stands in is put right."""
    expected, got = (_DATABASE.sub("db", one.say(line)) for one in (beside, terminal))
    assert got == expected
    return got


def test_it_greets_and_prompts(terminal: Terminal, any_town: Town) -> None:
    assert terminal.greeting.startswith("psql (18"), "no word of another server version"
    assert "WARNING" not in terminal.greeting
    assert terminal.prompt == any_town.dsn.rpartition("/")[2] + "=#"


@pytest.mark.parametrize(
    "line",
    ["\\dt", "\\d notes", "\\d children", "\\d+ words", "\\di", "\\df", "\\dv", "\\ds", "\\du", "\\dT", "\\dx",
     "\\dp", "\\sf now", "\\dt pg_catalog.pg_cl*", "\\d nothing", "\\encoding"],
)  # fmt: skip
def test_describing(terminal: Terminal, beside: Terminal, line: str) -> None:
    expected, got = beside.say(line), terminal.say(line)
    # What the proxy keeps on shards is there to be seen: its schema and the CHECK that a row is on its shard.
    without = [ours for ours in got.splitlines() if "pgchorus" not in ours and ours.strip() != "Check constraints:"]
    with_none = [theirs for theirs in expected.splitlines() if theirs.strip() != "Check constraints:"]
    assert without == [theirs for theirs in with_none if "pgchorus" not in theirs]


DESCRIBED = r"""
\dA; \dAc btree int8; \dAf btree; \dAo btree int8; \dAp btree; \db; \dc; \dC int8; \dd; \dD; \dconfig work_mem; \ddp;
\dE; \des; \deu; \dew; \det; \dF; \dFd; \dFp; \dFt; \dg; \dl; \dL; \dm; \do ||; \dO; \dP; \drds; \drg; \dRp; \dRs;
\dS pg_am; \dX; \df+ now; \sf+ lower; \sv pg_views; \z notes; \lo_list
"""


def test_describing_everything_else(terminal: Terminal, beside: Terminal) -> None:
    for line in DESCRIBED.split(";"):
        same(terminal, beside, line.strip())


@pytest.mark.parametrize("end", ["\\endpipeline", "\\syncpipeline"])
def test_pipelines_and_prepared_statements(terminal: Terminal, beside: Terminal, any_town: Town, end: str) -> None:
    fill(any_town)
    for line in (
        "select v from notes where k = $1 \\parse by_key",
        "\\bind_named by_key 3 \\g",
        "\\startpipeline",
        "\\bind_named by_key 5 \\sendpipeline",
        "select count(*) from notes \\bind \\sendpipeline",
        "\\flushrequest",
        "\\getresults",
        "insert into notes values ($1, 'x'), ($2, 'y') \\bind 100 101 \\sendpipeline",
        "\\syncpipeline",
        "insert into notes values (102, 'never') \\bind \\sendpipeline",
        "insert into notes values ($1, 'again') \\bind 100 \\sendpipeline",
        "select 'skipped' \\bind \\sendpipeline",
        end,
        "\\getresults",
        "select k from notes where k > 99 order by k \\bind \\sendpipeline",
        "\\endpipeline",
        "\\close_prepared by_key",
        "\\bind_named by_key 3 \\g",
        "select k, v from notes where k > 99 order by k;",
    ):
        same(terminal, beside, line)
    looks = [one.say("select count(*) from notes \\watch c=2 i=0.01") for one in (beside, terminal)]
    assert [len(re.findall(r"^ +14$", look, re.MULTILINE)) for look in looks] == [2, 2]


def test_describing_finds_the_tables(terminal: Terminal) -> None:
    said = terminal.say("\\d")
    for name in ("notes", "children", "kinds", "plain"):
        assert re.search(rf"public \| {name} +\| table", said), said
    assert any(line.strip().startswith("Name") for line in terminal.say("\\l").splitlines())


def test_expanded_and_timing(terminal: Terminal, beside: Terminal, any_town: Town) -> None:
    fill(any_town)
    same(terminal, beside, "select k, v from notes order by k;")
    same(terminal, beside, "\\x")
    assert "-[ RECORD 12 ]" in same(terminal, beside, "select k, v from notes order by k;")
    same(terminal, beside, "\\x auto")
    assert terminal.say("\\timing") == "Timing is on."
    assert re.search(r"^Time: [\d.]+ ms", terminal.say("select count(*) from notes;"), re.MULTILINE)
    assert re.search(r"^Time: [\d.]+ ms", terminal.say("select 1 / 0;"), re.MULTILINE)


def test_lines_sets_and_watches(terminal: Terminal, beside: Terminal, any_town: Town) -> None:
    fill(any_town)
    for line in (
        "select k,\n v from notes\n where k = 3;",
        "select max(k) as top from notes \\gset",
        "\\echo :top",
        "select :top + 1;",
        "select k, v from notes where k < 3 order by k \\gx",
        "select format('select %s as answer', 42) \\gexec",
        "select v from notes where k = $1 \\bind 5 \\g",
        "select k, v from notes order by k \\gdesc",
        "\\set AUTOCOMMIT off",
        "insert into notes values (100, 'x');",
        "rollback;",
        "\\set AUTOCOMMIT on",
        "\\set FETCH_COUNT 3",
        "select k from notes order by k;",
        "select k, v from notes where k = 3;",
        "\\set FETCH_COUNT 0",
        "select k, count(*) from notes group by k order by k limit 3 \\crosstabview",
        "\\set ON_ERROR_ROLLBACK on",
        "begin;",
        "select 1 / 0;",
        "select count(*) from notes;",
        "commit;",
    ):
        same(terminal, beside, line)


@pytest.mark.parametrize(
    "line",
    [
        "select k, nothing from notes where k = 1;",
        "select k, nothing from notes;",
        "select k from notes wher k = 1;",
        "select 1; select nope; select 2;",
        "select 'é', nope;",
        "select\n 1,\n nope(3)\n from notes;",
        "insert into notes (k, w) values (1, 'x');",
        "insert into notes (k, w) values (1, 'x'), (2, 'y'), (3, 'z');",
        "select * from nowhere;",
        "update notes set v = 5 + 'x' where k = 1;",
        "select k, v::nope from notes order by k;",
        "select k::int, v::int from notes order by v::nope;",
    ],
)
def test_errors_point_at_their_place(terminal: Terminal, beside: Terminal, line: str) -> None:
    said = same(terminal, beside, line)
    assert re.search(r"^LINE \d+: .*\n +\^", said, re.MULTILINE), said


def test_a_transaction_with_savepoints(terminal: Terminal, beside: Terminal, any_town: Town) -> None:
    a, b, c = any_town.spread
    prompts = []
    for line in (
        "begin;",
        f"insert into notes values ({a}, 'a');",
        "savepoint one;",
        f"insert into notes values ({b}, 'b');",
        f"insert into notes values ({b}, 'again');",
        "select 1;",
        "rollback to one;",
        f"insert into notes values ({c}, 'c');",
        "select k, v from notes order by v;",
        "commit;",
        "select k, v from notes order by v;",
    ):
        same(terminal, beside, line)
        prompts.append(terminal.prompt.partition("=")[2])
        assert prompts[-1] == beside.prompt.partition("=")[2]
    assert "!#" in prompts
    assert "*#" in prompts
    assert any_town.stored() == sorted([(a, "a"), (c, "c")])


def test_copy_both_ways(terminal: Terminal, any_town: Town, tmp_path: Path) -> None:
    there, back = tmp_path / "there.csv", tmp_path / "back.csv"
    there.write_text("".join(f"{key},note {key},\n" for key in range(1, 2001)))
    assert terminal.say(f"\\copy notes from '{there}' csv") == "COPY 2000"
    assert len(any_town.stored()) == 2000
    assert terminal.say(f"\\copy notes to '{back}' csv") == "COPY 2000"
    assert sorted(back.read_text().splitlines()) == sorted(there.read_text().splitlines())
    assert terminal.say(f"\\copy (select k from notes where k = 7) to '{back}'") == "COPY 1"
    assert back.read_text() == "7\n"
    said = terminal.say(f"\\copy notes from '{there}' csv")
    assert 'duplicate key value violates unique constraint "notes_pkey"' in said
    there.write_text("5000,x,\n5001,y,minus\n")
    said = terminal.say(f"\\copy notes from '{there}' csv")
    assert 'CONTEXT:  COPY notes, line 2, column n: "minus"' in said, said
    assert len(any_town.stored()) == 2000
    terminal.type("copy notes from stdin;\n6000\tby hand\t1\n6001\tby hand\t\\N\n\\.\n")
    assert terminal.read().endswith("COPY 2")
    assert len(any_town.stored()) == 2002
    assert "by hand" in terminal.say("copy (select v from notes where k = 6000) to stdout;")


SLEEPERS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"


def sleepers(town: Town) -> int:
    return sum(int(rows[0][0]) for rows in town.everywhere(SLEEPERS))


def wait_for_sleepers(town: Town, count: int) -> None:
    deadline = time.monotonic() + 20
    while sleepers(town) != count:
        assert time.monotonic() < deadline, (sleepers(town), count)
        time.sleep(0.01)


@pytest.mark.parametrize("where", ["no table", "one shard", "all shards", "in a block"])
def test_control_c(terminal: Terminal, any_town: Town, where: str) -> None:
    fill(any_town)
    queries = {
        "no table": ("select pg_sleep(30);", 1),
        "one shard": ("select v, pg_sleep(30) from notes where k = 3;", 1),
        "all shards": ("select v, pg_sleep(30) from notes;", len(any_town.shards)),
        "in a block": ("select v, pg_sleep(30) from notes where k = 3;", 1),
    }
    query, count = queries[where]
    if where == "in a block":
        terminal.say("begin;")
        terminal.say("update notes set v = 'changed' where k = 4;")
    terminal.type(query + "\n")
    wait_for_sleepers(any_town, count)
    began = time.monotonic()
    terminal.interrupt()
    said = terminal.read()
    assert "ERROR:  canceling statement due to user request" in said
    assert time.monotonic() - began < 5
    wait_for_sleepers(any_town, 0)
    if where == "in a block":
        assert terminal.prompt.endswith("=!#")
        assert terminal.say("rollback;") == "ROLLBACK"
    assert "12" in terminal.say("select count(*) from notes;")
    assert ("4", "note 4") in [(str(k), v) for k, v in any_town.stored()]


def test_control_c_at_the_prompt_and_after(terminal: Terminal) -> None:
    terminal.wait_until_it_reads()
    terminal.interrupt()
    terminal.read()
    assert "7" in terminal.say("select 7;")


def test_control_c_while_waiting_for_a_lock(terminal: Terminal, any_town: Town) -> None:
    fill(any_town)
    with connected(any_town.dsn) as holder:
        holder.query("begin; update notes set v = 'held'")
        terminal.type("update notes set v = 'wanted';\n")
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        deadline = time.monotonic() + 20
        while not any(rows[0][0] for rows in any_town.everywhere(waiting)):
            assert time.monotonic() < deadline
        terminal.interrupt()
        assert "canceling statement due to user request" in terminal.read()
        holder.query("rollback")
    assert {v for _, v in any_town.stored()} == {f"note {key}" for key in range(1, 13)}


def test_scripts_stop_at_their_first_error(any_town: Town, tmp_path: Path) -> None:
    a, b, c = any_town.spread
    script = tmp_path / "script.sql"
    script.write_text(f"insert into notes values ({a}, 'a');\ninsert into notes values ({b}, 'b', -1);\nselect 1;\n")
    done = run("psql", "-X", "-1", "-v", "ON_ERROR_STOP=1", "-f", str(script), any_town.dsn)
    assert done.returncode == 3
    assert "script.sql:2: ERROR" in done.stdout
    assert any_town.stored() == []
    script.write_text(f"insert into notes values ({a}, 'a');\ninsert into notes values ({c}, 'c');\n")
    assert run("psql", "-X", "-1", "-f", str(script), any_town.dsn).returncode == 0
    assert any_town.stored() == sorted([(a, "a"), (c, "c")])
    assert psql(any_town.dsn, "select count(*) from notes") == "2\n"
