"""EXPLAIN of what the proxy decides, and of what several shards run: the session's own answer.

Decides how the shards' answers stand under the route. What the route says comes from :mod:`router.route`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from proxy.encodings import written
from proxy.wire import backend
from router.plan import Execution, ExplainRoute, ExplainShards, GatherExecution
from router.plan_steps import ApplyExecution, Filled, LockCopiesExecution, LockExecution, MoveExecution
from router.resolve import resolve
from router.route import JSON_OID, TEXT_OID, yaml_lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.session.session import Session
    from router.plan import Executable, Statement

_COLUMN: Final = b"QUERY PLAN"
Answers = list[tuple[str, list[str]]]  # shard, and the lines of its EXPLAIN


def described(plan: ExplainRoute | ExplainShards) -> tuple[backend.Field, ...]:
    """Return the one column that EXPLAIN has in Postgres."""
    is_json = plan.type_oid == JSON_OID if isinstance(plan, ExplainRoute) else plan.format == "json"
    return (backend.Field(_COLUMN, 0, 0, JSON_OID if is_json else TEXT_OID, -1, -1, 0),)


async def explain(session: Session, plan: ExplainRoute | ExplainShards, *, describe: bool) -> bytes:
    """Answer with rows; return the CommandComplete."""
    if isinstance(plan, ExplainRoute):
        lines: Sequence[str] = plan.lines
    else:
        lines = list(_together(plan, await _ask(session, plan)))
    if describe:
        session.write(backend.row_description(described(plan)))
    session.write(b"".join(backend.data_row([written(line, session.encoding.codec)]) for line in lines))
    return backend.command_complete(b"EXPLAIN")


async def _ask(session: Session, plan: ExplainShards) -> Answers:
    """Ask each shard for its part; a statement whose values are made when it runs has no parts yet."""
    if isinstance(plan.inner.plan, Filled):
        return []
    names = session.database.logical.shards
    executable = resolve(plan.inner.plan, session.database.logical, ())
    options = f"({plan.options}) " if plan.options else ""
    if plan.format != "text":
        options = f"({plan.options}) "
    answers: Answers = []
    if isinstance(executable, GatherExecution):  # an error of the whole may be in none of its parts
        await session.database.descriptions.let_a_shard_speak(session, plan.inner.text)
    for shard, text in _parts(plan.inner, executable):
        links = await session.transaction.join([shard], writes=False, reads=True)
        answer = await links[shard].run(f"EXPLAIN {options}{text.strip()}")
        read = session.encoding.heard
        answers.append((names[shard], [read(row[0] or b"") for row in answer.rows]))
    session.transaction.finish_statement()
    return answers


def _parts(inner: Statement, executable: Executable) -> Iterator[tuple[int, str]]:
    """Yield what shards run: of a statement in steps the first of them, as the others follow from its rows."""
    if isinstance(executable, LockExecution):
        most = "" if executable.limit is None else f" LIMIT {executable.limit + executable.offset}"
        for shard in executable.shards:
            yield shard, (executable.plan.read or executable.plan.text) + most
    elif isinstance(executable, MoveExecution):
        yield from _parts(executable.plan.read, executable.read)
    elif isinstance(executable, ApplyExecution | LockCopiesExecution):
        yield from _parts(executable.plan.home, executable.home)
    elif isinstance(executable, Execution | GatherExecution):
        for task in executable.tasks:
            yield task.shard, inner.text if task.text is None else task.text


def _together(plan: ExplainShards, answers: Answers) -> Iterator[str]:
    if plan.format == "text":
        yield from plan.header
        for shard, lines in answers:
            yield f"Shard {shard}:"
            yield from (f"  {line}" for line in lines)
    elif plan.format == "json":
        (document,) = json.loads(plan.header[0])
        document["Shards"] = [{"Shard": shard, **_first(lines)} for shard, lines in answers]
        yield json.dumps([document], indent=2, ensure_ascii=False)
    else:
        parts = [plan.header[0], "  Shards:"]
        for shard, lines in answers:
            parts += [*yaml_lines([{"Shard": shard}], "    "), "      Plans:"]
            parts += [f"        {line}" for line in "\n".join(lines).splitlines()]
        yield "\n".join(parts)


def _first(lines: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads("\n".join(lines))[0]
    return found
