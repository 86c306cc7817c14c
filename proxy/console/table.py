"""A view's answer, and how it goes to the client: RowDescription, rows in text format, CommandComplete."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from proxy.wire import backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    Cell = str | int | bool | None

_TEXT: Final = (25, -1)
_INT8: Final = (20, 8)


@dataclass(slots=True)
class Table:
    """Columns by name and rows; a column whose name is in ``numbers`` is an int8, any other a text."""

    columns: Sequence[str]
    numbers: frozenset[str] = frozenset()
    rows: list[Sequence[Cell]] = field(default_factory=list)

    @classmethod
    def of(cls, columns: str) -> Table:
        """Return an empty table: names with blanks between them, ``#`` behind those of numbers."""
        names = columns.split()
        numbers = frozenset(name[:-1] for name in names if name.endswith("#"))
        return cls([name.removesuffix("#") for name in names], numbers)

    def add(self, **cells: Cell) -> None:
        """Add a row; what is not named is NULL."""
        unknown = cells.keys() - set(self.columns)
        if unknown:
            raise KeyError(*unknown)
        self.rows.append([cells.get(name) for name in self.columns])

    def frames(self) -> bytes:
        """Return the whole answer of a SHOW."""
        fields = []
        for name in self.columns:
            oid, size = _INT8 if name in self.numbers else _TEXT
            fields.append(backend.Field(name.encode(), 0, 0, oid, size, -1, 0))
        rows = [backend.data_row([_text(cell) for cell in row]) for row in self.rows]
        return backend.row_description(fields) + b"".join(rows) + backend.command_complete(b"SHOW")


def _text(cell: Cell) -> bytes | None:
    if cell is None:
        return None
    if isinstance(cell, bool):
        return b"1" if cell else b"0"  # as PgBouncer shows them
    return str(cell).encode()
