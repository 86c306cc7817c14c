"""Constants of each kind, written in the many ways that SQL has, and parameters of mixed types."""

# ruff: noqa: E501 - patterns of SQL read best on one line

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from oracle.corpus import TYPE_OIDS, Value
from oracle.generator.chance import Chance
from oracle.generator.schema import CASTS, CHOICES, INTEGERS

if TYPE_CHECKING:
    from collections.abc import Callable

_OIDS = {"i": ("int8", "int4", "int2"), "t": ("text", "varchar"), "q": ("text",), "n": ("numeric",), "d": ("date",),
         "u": ("uuid",), "b": ("bool",), "z": ("timestamp", "timestamptz"), "m": ("numeric",), "f": ("float8",)}  # fmt: skip
_ANY_TYPE = 0


def quote(text: str) -> str:
    """Return a text as a literal."""
    return "'" + text.replace("'", "''") + "'"


class Literals(Chance):
    """``values``: the parameters of the statement that is being made; None where it may have none."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.values: list[Value] | None = None

    def parameter(self, text: str | None, oid: int) -> str:
        """Return a new parameter with this value."""
        if self.values is None:
            raise ValueError("this statement takes no parameters")
        self.values.append(Value(text, oid))
        return f"${len(self.values)}"

    def _drawn(self, kind: str) -> str:
        """Return a value's text."""
        makers: dict[str, Callable[[], Any]] = {
            "i": lambda: self.pick(*INTEGERS, self.below(30)),
            "n": lambda: f"{self.below(4000) / 100:.2f}",
            "d": lambda: f"2024-01-{self.below(28) + 1:02d}",
            "z": lambda: f"2024-01-{self.below(28) + 1:02d} {self.pick('00:00:00', '12:30:00')}",
            "b": lambda: self.pick("true", "false"),
            "c": lambda: self.pick("a", "a ", "ab", "é"),
        }
        return str(makers[kind]() if kind in makers else self.pick(*CHOICES[kind]))

    def constant(self, kind: str, *, typed: bool = False) -> str:
        """Return a constant of a kind; ``typed``: its type is known wherever it stands."""
        text = self._drawn(kind)
        if self.values is not None and kind in _OIDS and self.odds(0.35):
            return self._as_parameter(kind, text, typed=typed)
        if kind == "i":
            return self._integer(int(text), typed=typed)
        if kind == "b":
            return text
        if kind == "n" and not typed:
            return text
        if kind == "d" and self.odds(0.6):
            return f"date {quote(text)}"
        return f"{quote(text)}::{CASTS[kind]}" if typed or kind in "fcaj" or self.odds(0.3) else quote(text)

    def _as_parameter(self, kind: str, text: str, *, typed: bool) -> str:
        if self.odds(0.04):
            return f"{self.parameter(None, _ANY_TYPE)}::{CASTS[kind]}"
        if self.odds(0.3) and (not typed or kind != "i"):
            return f"{self.parameter(text, _ANY_TYPE)}::{CASTS[kind]}"
        name = self.pick(*_OIDS[kind])
        return self.parameter(text, TYPE_OIDS[name])

    def _integer(self, value: int, *, typed: bool) -> str:
        if typed:
            return f"({value})::int8" if value < 0 else f"{value}::{self.pick('int8', 'int4')}"
        if value < 0:
            return str(self.pick(f"({value})", f"'{value}'", f"-{-value}"))
        return str(self.pick(str(value), str(value), str(value), f"'{value}'", f"{value}::int4", f"{value}::int2",
                             f"int8 '{value}'", f"({value} + 0)"))  # fmt: skip

    def key_constant(self, kind: str) -> str:
        """Return what may be compared with a key of this kind: other types and forms than its own, too."""
        if self.odds(0.55):
            return self.constant(kind)
        if kind == "i":
            return self._odd_integer()
        if kind in "tq":
            text = self._drawn(kind)
            return self.made(
                lambda: f"{quote(text)}::text", lambda: f"{quote(text)}::varchar", lambda: f"{quote(text)}::varchar(8)",
                lambda: f"{quote(text)}::char(3)", lambda: f"lower({quote(text)})", lambda: f"{quote(text)} || ''",
                lambda: f"e{quote(text)}", lambda: f"{quote(text)}::name", lambda: f"{quote(text + ' ')}",
            )  # fmt: skip
        if kind == "u":
            text = self._drawn(kind)
            return self.made(
                lambda: quote(text.upper()), lambda: quote("{" + text + "}"), lambda: f"{quote(text.replace('-', ''))}",
                lambda: f"{quote(text)}::text::uuid",
            )  # fmt: skip
        return self.constant(kind)

    def _odd_integer(self) -> str:
        value = int(self._drawn("i"))
        if self.values is not None and self.odds(0.4):
            name = self.pick("numeric", "float8", "int2", "int4", "int8")
            return self.parameter(str(value), TYPE_OIDS[name])
        return self.made(
            lambda: f"({value})::float8", lambda: f"({value})::numeric", lambda: f"{value}.0", lambda: f"{abs(value)}.5",
            lambda: f"' {value} '", lambda: f"'+{abs(value)}'", lambda: f"'0{abs(value)}'", lambda: "'0x1_0'",
            lambda: f"({value})::int2", lambda: f"'{value}'::int8", lambda: f"({value} + 1 - 1)", lambda: "-0",
            lambda: f"abs({value})", lambda: "99999999999", lambda: f"'{value}'::text::int8", lambda: "null",
        )  # fmt: skip

    def array(self, kind: str) -> str:
        """Return an array of values that may be compared with a column of this kind."""
        several = [self._drawn(kind) for _ in range(self.pick(0, 1, 2, 2, 3, 4))]
        element = CASTS[kind]
        if self.values is not None and kind in "it" and self.odds(0.5):
            inside = ",".join('"' + one.replace('"', '\\"') + '"' for one in several)
            null = self.pick("", "", ",NULL") if several else ""
            name = self.pick("int8[]", "int4[]") if kind == "i" else "text[]"
            return self.parameter("{" + inside + null + "}", TYPE_OIDS[name])
        if not several or self.odds(0.3):
            plain = [one for one in several if one.isalnum() and one.isascii()]
            return f"'{{{','.join(plain)}}}'::{element}[]"
        return f"array[{', '.join(f'{quote(one)}::{element}' for one in several)}]"
