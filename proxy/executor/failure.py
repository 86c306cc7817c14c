"""What goes wrong while answers of several shards become one, with the SQLSTATE that a client is told.

On the ground floor, so that the pure parts of the executor need no other; ``request.proxy_error`` translates it for the
rest.
"""

from __future__ import annotations


class CombineFailure(Exception):  # noqa: N818 - named for what failed
    """Rows, tags or numbers of several shards that cannot become one answer."""

    def __init__(self, sqlstate: str, message: str, *, detail: str = "", hint: str = "", context: str = "") -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
        self.message = message
        self.detail = detail
        self.hint = hint
        self.context = context
