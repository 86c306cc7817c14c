"""Parameters in a simple query, which has none.

Decides what such a statement is told where no shard reads its text as it came: what Postgres says. A definition may
have them in a body of its own, and PREPARE in its statement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyError

if TYPE_CHECKING:
    from router.statement import Parsed

_RUNS: Final = frozenset(
    {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "CopyStmt", "DeclareCursorStmt",
     "CreateTableAsStmt", "ExplainStmt"}
)  # fmt: skip


def check_no_parameters(parsed: Parsed, *, offset: int = 0) -> None:
    """Refuse ``$n`` in a statement of a simple query; ``offset``: where its text begins in the message."""
    if parsed.kind not in _RUNS:
        return
    found = [body for kind, body in parsed.nodes if kind == "ParamRef"]
    for body in sorted(found, key=lambda body: int(body.get("location", 0))):
        place = parsed.position(body.get("location", 0))
        position = None if place is None else place + offset
        raise ProxyError("42P02", f"there is no parameter ${body.get('number', 0)}", position=position)
