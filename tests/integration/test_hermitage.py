"""Isolation anomalies through the proxy: over one shard, and with the rows on two; docs/isolation.md has them all.

`PGCHORUS_REWRITE_GOLDEN=1 pytest tests/integration/test_hermitage.py` writes that page anew; review the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from hermitage import CASES, LEVELS, Case, Place, Told, run
from router.cluster import Database
from router.sharding import slot_of

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

PAGE = Path(__file__).parents[2] / "docs" / "isolation.md"
REWRITE = os.environ.get("PGCHORUS_REWRITE_GOLDEN") == "1"
TABLE = "CREATE TABLE test (id int8 PRIMARY KEY, value int4 NOT NULL)"
SAME = {"a": 1, "b": 2, "c": 3, "d": 4}
# What two shards show and one Postgres does not, at any level: "Not promised" in docs/limits.md has it.
NOT_PROMISED: frozenset[tuple[str, str]] = frozenset()
HEAD = """# Isolation

What interleaved transactions see, case by case: in one PostgreSQL 18, through pgchorus over one shard, and through
pgchorus with the rows on two shards. The cases are those of Martin Kleppmann's
[Hermitage](https://github.com/ept/hermitage), and at the end some of our own that concern several shards. Written by
`tests/integration/test_hermitage.py`, which runs all of it and fails where it is not as it stands here.

*Shown*: the anomaly happened. *Not shown*: it did not, and what kept it away: an error with its SQLSTATE, or the data.
*Either*: it may or may not happen, as it may with one server, by which shard comes first.
*Refused*: the transaction was ended with `0A000`, because it would have needed several shards.
"""
TAIL = """
Steps cannot show what happens between two messages of one statement. Those are shown elsewhere: reads between a
decision and its application (`tests/integration/test_settle.py`), snapshots under load
(`tests/faults/test_fractured.py`), and the histories of the [soak](soak.md). A long fork between single-shard
transactions on different shards is not shown above because the fence takes its snapshots within a moment; it is
possible within that moment, as [limits.md](limits.md) says.
"""


@pytest.fixture(scope="module")
def places(make_module_databases: MakeDatabases, start_module_proxy: StartProxy) -> dict[str, Place]:
    one = make_module_databases(1, "hermitage")
    shard = make_module_databases(1, "hermitage")
    shards = make_module_databases(2, "hermitage")
    layout = Database("hermitage", ("s0", "s1"), 0)
    on: tuple[list[int], list[int]] = ([], [])
    for key in range(1, 100):
        on[layout.shard_of_slot(slot_of("int8", key, layout.slots))].append(key)
    split = {"a": on[0][0], "b": on[1][0], "c": on[0][1], "d": on[1][1]}
    made = {"PostgreSQL": Place(one[0], one, SAME)}
    for name, dsns, keys in (("one shard", shard, SAME), ("two shards", shards, split)):
        process = start_module_proxy(dsns, {"test": {"key": "id"}})
        made[name] = Place(process.dsn(dsns[0].rpartition("/")[2]), dsns, keys)
    for place in made.values():
        with psycopg.connect(place.dsn, autocommit=True) as client:
            client.execute(TABLE)
    return made


def outcome(case: Case, told: Told) -> str:
    """Return a word or two for the page."""
    if "0A000" in told.errors:
        return "refused"
    if case.shows(told):
        return "shown"
    return f"not shown ({', '.join(told.errors)})" if told.errors else "not shown"


# A DELETE on two shards waits on one; whether the other one looks before or after the wait is nobody's promise.
EITHER = frozenset({("PMP write", "READ COMMITTED")})


def test_anomalies(places: dict[str, Place]) -> None:
    lines = [HEAD]
    for level in LEVELS:
        lines += [f"## {level}", "", f"| anomaly | {' | '.join(places)} | |", "|---|---|---|---|---|"]
        for case in CASES:
            told = {name: run(case, level, place) for name, place in places.items()}
            outcomes = {name: outcome(case, one) for name, one in told.items()}
            # With one shard the proxy cannot be told from Postgres, in any step.
            assert told["one shard"].steps == told["PostgreSQL"].steps, (case.name, level)
            assert told["one shard"].final == told["PostgreSQL"].final, (case.name, level)
            if outcomes["two shards"] == "shown":
                promised = outcomes["PostgreSQL"] != "shown" and (case.name, level) not in NOT_PROMISED
                assert not promised, f"{case.name} at {level}: {told}"
            if (case.name, level) in EITHER:
                outcomes["two shards"] = "either"
            lines.append(f"| {case.name} | {' | '.join(outcomes.values())} | {case.words} |")
        lines.append("")
    page = "\n".join(lines) + TAIL
    if REWRITE:
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "see the difference: PGCHORUS_REWRITE_GOLDEN=1 writes the page anew"
