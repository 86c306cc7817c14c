from __future__ import annotations

from pathlib import Path

from router.errors import GATHERED, REFUSALS, refusal
from router.refusals import document

DOCUMENT = Path(__file__).parents[2] / "docs" / "refusals.md"


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == document(), "run: make docs"


def test_every_refusal_is_in_it_once() -> None:
    lines = document().splitlines()
    for name in REFUSALS:
        assert sum(line.startswith(f"| `{name}` |") for line in lines) == 1
    assert not REFUSALS.keys() & GATHERED.keys()


def test_a_refusal_says_what_it_is_about() -> None:
    found = refusal("key-update", key="id")
    assert (found.sqlstate, found.message) == ("0A000", "the sharding key id cannot be changed by UPDATE")
