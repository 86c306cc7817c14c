"""The fields of ErrorResponse and NoticeResponse.

Texts are str, read as UTF-8; bytes that are not UTF-8 (a client in another encoding) survive a round trip by surrogate
escapes.

https://www.postgresql.org/docs/18/protocol-error-fields.html
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_INTERNAL_ERROR = "XX000"


@dataclass(frozen=True, slots=True)
class ErrorFields:
    """One-letter field codes and their texts, in the order in which they go out.

    S severity (localized), V severity, C SQLSTATE, M message, D detail, H hint, P position, p internal position, q
    internal query, W where, s schema, t table, c column, d data type, n constraint, F file, L line, R routine.
    """

    fields: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))

    @classmethod
    def make(  # noqa: PLR0913 - as many as an error has parts
        cls,
        severity: str,
        sqlstate: str,
        message: str,
        *,
        detail: str = "",
        hint: str = "",
        position: int | None = None,
        where: str = "",
    ) -> Self:
        """Build fields as Postgres orders them; ``position`` counts characters from 1. Empty parts are left out."""
        fields = {"S": severity, "V": severity, "C": sqlstate, "M": message}
        if detail:
            fields["D"] = detail
        if hint:
            fields["H"] = hint
        if position is not None:
            fields["P"] = str(position)
        if where:
            fields["W"] = where
        return cls(fields)

    def replace(self, **changes: str | None) -> ErrorFields:
        """Return a copy with fields set, or removed where the value is None; new ones go to the end."""
        fields = dict(self.fields)
        for code, text in changes.items():
            if text is None:
                fields.pop(code, None)
            else:
                fields[code] = text
        return ErrorFields(fields)

    def get(self, code: str, default: str = "") -> str:
        """Return the text of one field."""
        return self.fields.get(code, default)

    @property
    def severity(self) -> str:
        """ERROR, FATAL, PANIC, WARNING, NOTICE ...: never localized."""
        return self.fields.get("V") or self.fields.get("S", "")

    @property
    def sqlstate(self) -> str:
        """Five characters; XX000 if a server left it out."""
        return self.fields.get("C", _INTERNAL_ERROR)

    @property
    def message(self) -> str:
        """The primary message."""
        return self.fields.get("M", "")

    @property
    def detail(self) -> str:
        """The detail, or nothing."""
        return self.fields.get("D", "")

    @property
    def hint(self) -> str:
        """The hint, or nothing."""
        return self.fields.get("H", "")

    @property
    def position(self) -> int | None:
        """Where in the statement's text, in characters from 1."""
        text = self.fields.get("P", "")
        return int(text) if text.isascii() and text.isdigit() else None

    def __str__(self) -> str:
        return f"{self.severity} {self.sqlstate}: {self.message}"
