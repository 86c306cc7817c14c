"""Statement files: how they are read.

A statement ends with a semicolon at the end of a line (outside of `$$`). What stands in lines `--! ...` before it says
how its answers are compared:

    --! any limit           any of the rows that the statement has without its LIMIT/OFFSET/FETCH is right
    --! ties                rows that ORDER BY does not tell apart may come in any order
    --! values              only columns, tag and number of rows are fixed (array_agg without an order, random())
    --! alike               numeric, float, interval and jsonb columns may show any of several equal values (1.0, 1.00)
    --! any row             several rows are wrong in several ways, and which is seen first is not fixed
    --! equal values        numeric and float columns may show any of several equal values, but no other one
    --! modifiers free      varchar(8) may be described as varchar: the planner changes what a set operation is
    --! count free          not even the number of rows is fixed (TABLESAMPLE)
    --! float               float columns may differ in their last digits: sums of floats depend on the order of rows
    --! error free          an error may come or not, as the plan has it (division by zero beside a LIMIT)
    --! params 5::int8, 'x' values for $1, $2...; such a statement runs in the extended protocol only
    --! data 1,x            one line of what a COPY FROM STDIN is sent, as it is but for blanks at its end
    --! file writes         (once, at the top) every statement runs in a block that is rolled back, with a look at the
                            tables that it names in between
    --! file looks a, b     (once) tables that every statement of such a file is followed by a look at, named or not
    --! file path a, b      (once) the search_path of the whole file
    --! begin script        statements up to `--! end script` follow each other on one connection; after a refusal they
                            are run but not compared, so that the last ones can clean up. `begin` ... `rollback` is one
                            without more words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from router.errors import SyntaxFailure
from router.statement import parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PARAMETER = re.compile(r"\s*(null|'(?:[^']|'')*'|[^,:']+)(?:::(\w+(?:\[\])?))?\s*(?:,|$)", re.IGNORECASE)
_LIMIT = re.compile(r"\b(limit|offset|fetch)\b[^)]*$", re.IGNORECASE)
_MARKS = frozenset({"any limit", "ties", "values", "count free", "float", "error free", "alike", "modifiers free",
                    "equal values", "any row"})  # fmt: skip
TYPE_OIDS = {"bool": 16, "int8": 20, "int2": 21, "int4": 23, "text": 25, "float8": 701, "varchar": 1043, "date": 1082,
             "timestamp": 1114, "timestamptz": 1184, "numeric": 1700, "uuid": 2950, "int8[]": 1016, "int4[]": 1007,
             "text[]": 1009}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Value:
    """One parameter: its text (None is NULL) and the type that Parse declares (0 leaves it open)."""

    text: str | None
    oid: int


@dataclass(frozen=True)
class Case:
    """One statement and how it is compared."""

    where: str
    sql: str
    marks: frozenset[str] = frozenset()
    values: tuple[Value, ...] = ()
    data: tuple[str, ...] | None = None

    @cached_property
    def ordered(self) -> bool:
        """Whether ORDER BY at the top fixes the order of rows."""
        try:
            found = parse(self.sql)
        except SyntaxFailure:
            return False
        if not found:
            return False
        body = found[0].body
        if found[0].kind == "CopyStmt":
            body = body.get("query", {}).get("SelectStmt", {})
        elif found[0].kind != "SelectStmt":
            return False
        return bool(body.get("sortClause"))

    @cached_property
    def without_limit(self) -> str:
        """The statement with all rows."""
        return _LIMIT.sub("", self.sql.rstrip("; \n"))


@dataclass(slots=True)
class Group:
    """Cases that run one after another; a script as one thing, all else each for itself."""

    cases: list[Case] = field(default_factory=list)
    script: bool = False


@dataclass(slots=True)
class StatementFile:
    """One file."""

    path: Path
    groups: list[Group] = field(default_factory=list)
    writes: bool = False
    looks: tuple[str, ...] = ()
    search_path: str = ""

    @property
    def name(self) -> str:
        """Folder and name."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def size(self) -> int:
        """How many statements there are."""
        return sum(len(group.cases) for group in self.groups)


def statements(text: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield (line, marks before it, statement without its semicolon)."""
    marks: list[str] = []
    lines: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not lines:
            if stripped.startswith("--!"):
                marks.append(stripped.removeprefix("--!").strip())
                continue
            if not stripped or stripped.startswith("--"):
                continue
            start = number
        lines.append(line)
        whole = "\n".join(lines)
        if stripped.endswith(";") and whole.count("$$") % 2 == 0:
            yield start, marks, whole.rstrip().removesuffix(";")
            marks, lines = [], []
    if lines:
        raise ValueError(f"line {start}: the statement does not end")
    if marks:
        yield 0, marks, ""


def parameters(text: str) -> tuple[Value, ...]:
    """Read `5::int8, 'x', null`."""
    found = []
    position = 0
    while position < len(text.rstrip()):
        match = _PARAMETER.match(text, position)
        if match is None:
            raise ValueError(f"parameters cannot be read: {text[position:]}")
        literal, type_name = match[1].strip(), match[2]
        value = literal[1:-1].replace("''", "'") if literal.startswith("'") else literal
        found.append(Value(None if literal.lower() == "null" else value, TYPE_OIDS[type_name] if type_name else 0))
        position = match.end()
    return tuple(found)


class _Reader:
    """Reads one file, statement after statement."""

    def __init__(self, path: Path) -> None:
        self.file = StatementFile(path)
        self._script: Group | None = None
        self._block = False
        self._kept: set[str] = set()
        self._values: tuple[Value, ...] = ()
        self._data: list[str] | None = None

    def mark(self, line: int, mark: str) -> None:
        """Take in one `--!` line."""
        if mark == "file writes":
            self.file.writes = True
        elif mark.startswith("file looks "):
            self.file.looks = tuple(name.strip() for name in mark.removeprefix("file looks ").split(","))
        elif mark.startswith("file path "):
            self.file.search_path = mark.removeprefix("file path ")
        elif mark == "begin script":
            self._script = Group(script=True)
            self.file.groups.append(self._script)
        elif mark == "end script":
            self._script = None
        elif mark.startswith("params"):
            self._values = parameters(mark.removeprefix("params"))
        elif mark == "data" or mark.startswith("data "):
            self._data = [*(self._data or ()), mark.removeprefix("data").removeprefix(" ")]
        elif mark in _MARKS:
            self._kept.add(mark)
        else:
            raise ValueError(f"{self.file.path}:{line}: unknown mark {mark!r}")

    def statement(self, line: int, sql: str) -> None:
        """Take in one statement with the marks before it."""
        data = None if self._data is None else tuple(self._data)
        case = Case(f"{self.file.name}:{line}", sql, frozenset(self._kept), self._values, data)
        self._kept, self._values, self._data = set(), (), None
        word = sql.strip().lower()
        if self._script is not None:
            self._script.cases.append(case)
            return
        if not self._block and word.startswith(("begin", "start transaction")):
            self._block = True
            self.file.groups.append(Group(script=True))
        if self._block:
            self.file.groups[-1].cases.append(case)
            self._block = word not in {"rollback", "commit"}
        else:
            self.file.groups.append(Group([case]))


def read(path: Path) -> StatementFile:
    """Read a statement file."""
    reader = _Reader(path)
    for line, marks, sql in statements(path.read_text()):
        for mark in marks:
            reader.mark(line, mark)
        if sql:
            reader.statement(line, sql)
    return reader.file


def read_all(root: Path, only: str = "") -> list[StatementFile]:
    """Read every file below ``root`` whose folder or name contains ``only``."""
    found = [read(path) for path in sorted(root.rglob("*.sql"))]
    return [one for one in found if only in one.name]
