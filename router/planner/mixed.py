"""Lists of relations of which the home shard has all and the others some: DROP, GRANT, LOCK, TRUNCATE, VACUUM, ANALYZE.

Decides what the other shards get: the statement with those names alone that they have. Home gets it as it came, and
says what is wrong with it; names that nobody knows are home's, where temporary relations are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from router.plan import EveryShard
from router.rewrite import at_top, first_at_top, list_items
from router.statement import parse
from router.tree import same

if TYPE_CHECKING:
    from collections.abc import Sequence

    from router.plan import Target
    from router.planner.context import Context

Texts = tuple[str | None, ...]
_END: Final = "ASCII_59"
_WORDS: Final = {"OBJECT_MATVIEW": 2, "OBJECT_FOREIGN_TABLE": 2}  # of what is dropped; one for all others


def is_mixed(targets: Sequence[Target | None]) -> bool:
    """Whether some of several relations are on every shard, and some are not."""
    return 0 < sum(target == EveryShard() for target in targets) < len(targets)


def dropped(context: Context, targets: Sequence[Target | None]) -> Texts:
    """Return what each shard gets of a DROP."""
    body = context.body
    start = 1 + _WORDS.get(body["removeType"], 1) + (2 if body.get("missing_ok") else 0)
    return texts(context, _elsewhere(context, "objects", start, ("CASCADE", "RESTRICT"), targets))


def granted(context: Context, targets: Sequence[Target | None]) -> Texts:
    """Return what each shard gets of a GRANT or REVOKE."""
    tokens = context.parsed.tokens
    start = (at_top(tokens, "ON") or 0) + 1
    word = "SEQUENCE" if context.body.get("objtype") == "OBJECT_SEQUENCE" else "TABLE"
    start += tokens[start].name == word
    return texts(context, _elsewhere(context, "objects", start, ("TO", "FROM"), targets))


def tables(context: Context, key: str, targets: Sequence[Target | None]) -> str:
    """Return what other shards get of LOCK and TRUNCATE, whose tables are in the tree's list ``key``."""
    start = 2 if context.parsed.tokens[1].name == "TABLE" else 1
    return _elsewhere(context, key, start, ("IN_P", "NOWAIT", "RESTART", "CONTINUE_P", "CASCADE", "RESTRICT"), targets)


def vacuumed(context: Context, targets: Sequence[Target | None]) -> str:
    """Return what other shards get of VACUUM and ANALYZE."""
    parsed = context.parsed
    first = context.body["rels"][0]["VacuumRelation"]["relation"]
    start = parsed.token_at(parsed.place(first["location"]))
    start -= parsed.tokens[start - 1].name == "ONLY"
    return _elsewhere(context, "rels", start, (), targets)


def texts(context: Context, elsewhere: str) -> Texts:
    """Return the original (None) for home, and ``elsewhere`` for the other shards."""
    home = context.database.home
    return tuple(None if shard == home else elsewhere for shard in range(len(context.database.shards)))


def _elsewhere(context: Context, key: str, start: int, enders: Sequence[str], targets: Sequence[Target | None]) -> str:
    """Return the statement with those items of its list that every shard has; ``start`` and ``enders`` are tokens."""
    tokens, text = context.parsed.tokens, context.parsed.text
    stop = first_at_top(tokens, (*enders, _END), start)
    found = list_items(tokens, start, stop)
    if len(found) == len(targets) == len(context.body[key]):
        kept = [target == EveryShard() for target in targets]
        names = [text[tokens[first].start : tokens[behind - 1].end] for first, behind in found]
        chosen = ", ".join(name for name, keeps in zip(names, kept, strict=True) if keeps)
        made = text[: tokens[start].start] + chosen + text[tokens[stop - 1].end :]
        expected = [item for item, keeps in zip(context.body[key], kept, strict=True) if keeps]
        if same(parse(made)[0].body, {**context.body, key: expected}):
            return made
    raise context.refuse("mixed-tables")
