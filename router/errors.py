"""Refusals: what the router will not do, why, and what to do instead.

Each refusal has a SQLSTATE, a stable id (for metrics, golden tests and the documentation), a message and a hint. Only this
file makes them up; planners name them.
"""

from __future__ import annotations


class Refused(Exception):  # noqa: N818 - "Refused" is what happened; "RefusedError" says nothing more
    """A statement that cannot be seen to be exact.

    ``position`` counts characters of the statement's text from 1, as Postgres's own error positions do.
    """

    def __init__(
        self,
        refusal: str,
        message: str,
        *,
        hint: str = "",
        detail: str = "",
        sqlstate: str = "0A000",
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.refusal = refusal
        self.message = message
        self.hint = hint
        self.detail = detail
        self.sqlstate = sqlstate
        self.position = position


class SyntaxFailure(Exception):  # noqa: N818 - named for what the parser met
    """The parser could not read the text; a real shard gets the last word, by Parse only (never Execute)."""

    def __init__(self, message: str, position: int | None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position
