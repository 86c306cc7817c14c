"""What `make pipelines` finds and docs/limits.md lists ("When an error comes", over one shard), by name.

A difference is listed only where the smallest sequence is the one that the sentence is about, and the first messages
that differ are the very ones that it names. The rest of the answers is not compared: a sequence stops at its first
difference, and is played again without what shows it (compare.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from proxy.wire.frontend import Bind, Execute, Parse, Query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wire_client import Entry, Trace

_NO_UNNAMED = {"S": "ERROR", "C": "34000", "M": 'portal "" does not exist'}


@dataclass(frozen=True)
class Listed:
    """A difference that is known. ``sentence`` stands in docs/limits.md."""

    name: str
    sentence: str
    is_it: Callable[[Sequence[Any], Entry, Entry], bool]


def first_difference(expected: Trace, got: Trace) -> tuple[Entry | None, Entry | None]:
    """Return the first entries in which two traces differ; None: one has ended."""
    for number in range(max(len(expected), len(got))):
        one, other = (trace[number] if number < len(trace) else None for trace in (expected, got))
        if one != other:
            return one, other
    raise AssertionError("the traces are equal")


def kind_of(expected: Trace, got: Trace) -> tuple[object, ...]:
    """Return what two differences have in common that are most likely one."""
    return tuple(_short(entry) for entry in first_difference(expected, got))


def name_of(messages: Sequence[Any], expected: Trace, got: Trace) -> str | None:
    """Return the name of a difference that is listed, None for any other."""
    one, other = first_difference(expected, got)
    if one is None or other is None:
        return None
    return next((listed.name for listed in LISTED if listed.is_it(messages, one, other)), None)


def _short(entry: Entry | None) -> object:
    if entry is None:
        return None
    if entry[0] in ("error", "notice"):
        return entry[0], entry[1]["C"], re.sub(r'"[^"]*"', '""', entry[1]["M"])
    return entry[0]


def _texts(messages: Sequence[Any]) -> list[str]:
    return [
        (message.query if isinstance(message, Parse) else message.text).decode()
        for message in messages
        if isinstance(message, Parse | Query)
    ]


def _bound_to(messages: Sequence[Any], portal: str) -> list[str]:
    """Return the texts that this portal was bound to."""
    parsed: dict[bytes, str] = {}
    bound = []
    for message in messages:
        if isinstance(message, Parse):
            parsed[message.statement] = message.query.decode()
        elif isinstance(message, Query):
            for name, text in re.findall(r"prepare (\w+)(?:\(.*?\))? as (.*?)(?:;|$)", message.text.decode()):
                parsed[name.encode()] = text
        elif isinstance(message, Bind) and message.portal == portal.encode():
            bound.append(parsed.get(message.statement, "?"))
    return bound


def _unnamed_behind_set(messages: Sequence[Any], one: Entry, other: Entry) -> bool:
    if one[0] not in ("row", "tag", "suspended") or other != ("error", _NO_UNNAMED):
        return False
    executed = [message.portal for message in messages if isinstance(message, Execute)]
    if len(executed) != 2 or not executed[0] or executed[1]:
        return False
    texts = _bound_to(messages, executed[0].decode())
    return len(texts) == 1 and re.match(r"(set|reset)\b", texts[0]) is not None


def _error_behind_executed_begin(messages: Sequence[Any], one: Entry, other: Entry) -> bool:
    if (one, other) != (("ready", "I"), ("ready", "E")) or any(isinstance(message, Query) for message in messages):
        return False
    parsed = {message.statement.decode(): message.query.decode() for message in messages if isinstance(message, Parse)}
    begins = {name for name, text in parsed.items() if re.match(r"(begin|start transaction)\b", text)}
    executed = {text.removeprefix("execute ") for text in _texts(messages) if text.startswith("execute ")}
    return bool(begins & executed)


LISTED: tuple[Listed, ...] = (
    Listed(
        "an error behind EXECUTE of BEGIN",
        "an error behind EXECUTE of BEGIN, in one pipeline, leaves a block that has failed, where Postgres has none",
        _error_behind_executed_begin,
    ),
    Listed(
        "the unnamed portal behind SET by a named one",
        "the unnamed portal that is executed behind SET and the like, by a named portal, in its pipeline",
        _unnamed_behind_set,
    ),
)
