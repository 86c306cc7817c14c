"""Command tags of several shards as one.

https://www.postgresql.org/docs/18/protocol-message-formats.html (CommandComplete)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxy.executor.failure import CombineFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

_COUNTED = re.compile(rb"(.*) (\d+)\Z")


def counted(tag: bytes, rows: int) -> bytes:
    """Return the tag with another row count; a tag without one (EXPLAIN, SHOW) stays as it is."""
    match = _COUNTED.match(tag)
    return tag if match is None else b"%s %d" % (match[1], rows)


def count(tag: bytes) -> int:
    """Return the row count; 0 where there is none."""
    match = _COUNTED.match(tag)
    return 0 if match is None else int(match[2])


def add(tags: Sequence[bytes]) -> bytes:
    """Add up the row counts: ``UPDATE 3`` and ``UPDATE 4`` are ``UPDATE 7``; ``INSERT 0 1`` keeps its zero."""
    total = 0
    verbs = set()
    for tag in tags:
        match = _COUNTED.match(tag)
        verbs.add(tag if match is None else match[1])
        total += 0 if match is None else int(match[2])
    if len(verbs) != 1:
        raise _disagreement(tags)
    return counted(tags[0], total)


def agree(tags: Sequence[bytes]) -> bytes:
    """Return the tag that all shards gave for the same work."""
    if len(set(tags)) != 1:
        raise _disagreement(tags)
    return tags[0]


def _disagreement(tags: Sequence[bytes]) -> CombineFailure:
    shown = ", ".join(sorted({f'"{tag.decode("ascii", "replace")}"' for tag in tags}))
    return CombineFailure(
        "XX000",
        "shards gave different answers to the same statement",
        detail=f"Command tags: {shown}.",
        hint="The copies of a reference table or the schemas of the shards differ; see pgchorus doctor.",
    )
