from __future__ import annotations

import re
from pathlib import Path

from router.errors import ANY_SHARDS, GATHERED, REFUSALS, RUNNING, refusal
from router.refusals import document

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "refusals.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == document(), "run: make docs"


def test_every_refusal_is_in_it_once() -> None:
    lines = document().splitlines()
    ids = [name for table in (REFUSALS, RUNNING, ANY_SHARDS) for name in table]
    for name in ids:
        assert sum(line.startswith(f"| `{name}` |") for line in lines) == 1
    assert len({*ids, *GATHERED}) == len(ids) + len(GATHERED)


def test_nothing_is_refused_that_is_not_in_it() -> None:
    """Elsewhere: Postgres's own errors, the protocol and the console, and bugs (types that no plan asks for)."""
    elsewhere = {
        "proxy/errors.py", "proxy/wire/errors.py", "proxy/wire/startup.py", "proxy/wire/scram.py",
        "proxy/shards/schema_sql.py", "proxy/executor/values.py", "proxy/executor/ordered.py",
        "proxy/executor/copy_in.py", "proxy/session/altering.py", "proxy/console/session.py",
    }  # fmt: skip
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "proxy").rglob("*.py")
        if '"0A000"' in (text := path.read_text()) or "'0A000'" in text or "FEATURE_NOT_SUPPORTED" in text
    }
    assert found <= elsewhere


def test_what_is_refused_is_in_a_table() -> None:
    """Each id that the proxy's files name is known, and each that turns up when a statement runs is named."""
    tables = REFUSALS.keys() | RUNNING.keys() | ANY_SHARDS.keys()
    named = {
        name
        for path in (ROOT / "proxy").rglob("*.py")
        for name in re.findall(r'refusal\(\s*"([a-z-]+)"', path.read_text())
    }
    assert named <= tables
    of_planners = {"session-view"}
    assert RUNNING.keys() | ANY_SHARDS.keys() <= named | of_planners


def test_a_refusal_says_what_it_is_about() -> None:
    found = refusal("key-update", key="id")
    assert (found.sqlstate, found.message) == ("0A000", "the sharding key id cannot be changed by UPDATE")
