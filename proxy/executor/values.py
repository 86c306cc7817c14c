"""Values that are computed here rather than passed on: their wire forms, their sums and averages.

Pure. One codec for each type that count, sum, avg, bool_and and bool_or give: int8, numeric, float8, float4, bool. The
text of a float depends on the session's ``extra_float_digits``, which is a parameter here.

https://www.postgresql.org/docs/18/datatype-numeric.html#DATATYPE-FLOAT
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from struct import Struct
from typing import TYPE_CHECKING, Any, NoReturn

from proxy.executor import numeric
from proxy.executor.failure import CombineFailure

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

BOOL, INT8, FLOAT4, FLOAT8, NUMERIC = 16, 20, 700, 701, 1700

SIZES = {BOOL: 1, INT8: 8, FLOAT4: 4, FLOAT8: 8, NUMERIC: -1}

_INT64, _FLOAT4, _FLOAT8 = Struct(">q"), Struct(">f"), Struct(">d")
_LARGEST_INT64 = (1 << 63) - 1
_SMALLEST_INT64 = -(1 << 63)
_FLOAT4_DIGITS, _FLOAT8_DIGITS = 6, 15  # decimal digits that always survive, C's FLT_DIG and DBL_DIG
_FLOAT4_ROUND_TRIP_DIGITS, _FLOAT8_ROUND_TRIP_DIGITS = 9, 17
_FLOAT4_EXPONENT = 0x7F80_0000
_LOWEST_PLAIN_EXPONENT = -4  # smaller numbers are shown with an exponent


@dataclass(frozen=True, slots=True)
class Codec:
    """A type's binary and text forms, and how two values are added (``add`` is None where the type has no sum)."""

    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    text: Callable[[Any], bytes]
    add: Callable[[Any, Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Average:
    """How avg's value is made from the whole sum and count, and the codec of its type."""

    divide: Callable[[Any, int], Any]
    codec: Codec


def codec(type_oid: int, *, extra_float_digits: int = 1) -> Codec:
    """Return the codec of a computed type; CombineFailure 0A000 for any other."""
    if type_oid == INT8:
        return _INT8
    if type_oid == NUMERIC:
        return _NUMERIC
    if type_oid == BOOL:
        return _BOOL
    if type_oid == FLOAT8:
        return Codec(_read_float8, _FLOAT8.pack, lambda value: float8_text(value, extra_float_digits), _add_float8)
    if type_oid == FLOAT4:
        return Codec(_read_float4, _FLOAT4.pack, lambda value: float4_text(value, extra_float_digits), _add_float4)
    raise CombineFailure("0A000", f"aggregates of the type with OID {type_oid} cannot be combined across shards")


def average(sum_type_oid: int, *, extra_float_digits: int = 1) -> Average:
    """Return how avg is made from a sum of this type."""
    if sum_type_oid == INT8:
        return Average(_divide_int8, _NUMERIC)
    if sum_type_oid == NUMERIC:
        return Average(numeric.divide, _NUMERIC)
    if sum_type_oid == FLOAT8:
        return Average(_divide_float8, codec(FLOAT8, extra_float_digits=extra_float_digits))
    raise CombineFailure("0A000", f"avg over sums of the type with OID {sum_type_oid} cannot be combined across shards")


# --- integers and booleans ---------------------------------------------------------------------------------------


def _read_int64(data: bytes) -> int:
    value: int = _INT64.unpack(data)[0]
    return value


def _add_int64(one: int, other: int) -> int:
    total = one + other
    if not _SMALLEST_INT64 <= total <= _LARGEST_INT64:
        raise CombineFailure("22003", "bigint out of range")
    return total


def _int_text(value: int) -> bytes:
    return b"%d" % value


def _divide_int8(total: int, count: int) -> Decimal:
    return numeric.divide(numeric.of_int(total), count)


def _read_bool(data: bytes) -> bool:
    return data != b"\0"


def _bool_binary(value: bool) -> bytes:  # noqa: FBT001 - it is the value
    return b"\1" if value else b"\0"


def _bool_text(value: bool) -> bytes:  # noqa: FBT001 - it is the value
    return b"t" if value else b"f"


# --- floats ------------------------------------------------------------------------------------------------------


def _read_float8(data: bytes) -> float:
    value: float = _FLOAT8.unpack(data)[0]
    return value


def _read_float4(data: bytes) -> float:
    value: float = _FLOAT4.unpack(data)[0]
    return value


def _out_of_range() -> NoReturn:
    raise CombineFailure("22003", "value out of range: overflow")


def _add_float8(one: float, other: float) -> float:
    total = one + other
    if math.isinf(total) and math.isfinite(one) and math.isfinite(other):
        _out_of_range()
    return total


def _add_float4(one: float, other: float) -> float:
    try:
        # struct rounds to the nearest float4, and raises where that would be an infinity
        return _read_float4(_FLOAT4.pack(one + other))
    except OverflowError:
        _out_of_range()


def _divide_float8(total: float, count: int) -> float:
    return total / count


def float8_text(value: float, extra_float_digits: int) -> bytes:
    """Write a float8 as Postgres does.

    The shortest digits that round-trip, or as many as the setting says (0 or less).
    """
    if not math.isfinite(value):
        return _special(value)
    if extra_float_digits <= 0:
        return b"%.*g" % (max(_FLOAT8_DIGITS + extra_float_digits, 1), value)
    size = abs(value)
    low, high = Fraction(math.nextafter(size, 0.0)), Fraction(size) + Fraction(math.ulp(size))
    return _laid_out(_shortest(value, low, high, _FLOAT8_ROUND_TRIP_DIGITS), _FLOAT8_DIGITS)


def float4_text(value: float, extra_float_digits: int) -> bytes:
    """Write a float4 likewise."""
    if not math.isfinite(value):
        return _special(value)
    if extra_float_digits <= 0:
        return b"%.*g" % (max(_FLOAT4_DIGITS + extra_float_digits, 1), value)
    bits = int.from_bytes(_FLOAT4.pack(abs(value)))
    below = _read_float4((bits - 1).to_bytes(_FLOAT4.size)) if bits else 0.0
    # Half a step above the largest float4 is as far as half a step below it.
    ulp = Fraction(_read_float4((bits & _FLOAT4_EXPONENT | 1).to_bytes(_FLOAT4.size))) - Fraction(
        _read_float4((bits & _FLOAT4_EXPONENT).to_bytes(_FLOAT4.size))
    )
    high = Fraction(abs(value)) + ulp
    return _laid_out(_shortest(value, Fraction(below), high, _FLOAT4_ROUND_TRIP_DIGITS), _FLOAT4_DIGITS)


def _shortest(value: float, below: Fraction, above: Fraction, most_digits: int) -> str:
    """Return the fewest digits that are nearer to ``value`` than to its neighbours (of its absolute value).

    Digits exactly halfway do not count: Postgres does not rely on the reader to round those to even, and shows one
    more.
    """
    size = Fraction(abs(value))
    low, high = (below + size) / 2, (size + above) / 2
    text = ""
    for digits in range(1, most_digits + 1):
        text = f"{value:.{digits - 1}e}"
        if low < abs(Fraction(text)) < high:
            break
    return text


def _special(value: float) -> bytes:
    if math.isnan(value):
        return b"NaN"
    return b"Infinity" if value > 0 else b"-Infinity"


def _laid_out(text: str, plain_digits: int) -> bytes:
    """Lay out the digits of a number as Postgres does.

    With an exponent below 1e-4 and from 10 ** ``plain_digits`` on.
    """
    sign = "-" if text.startswith("-") else ""
    mantissa, _, exponent_text = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    exponent = int(exponent_text or 0) + len(whole) - 1
    digits = whole + fraction
    leading = len(digits) - len(digits.lstrip("0"))
    digits = digits.strip("0")
    if not digits:
        return f"{sign}0".encode()
    exponent -= leading
    if not _LOWEST_PLAIN_EXPONENT <= exponent < plain_digits:
        point = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{point}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}".encode()
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}".encode()
    digits = digits.ljust(exponent + 1, "0")
    rest = digits[exponent + 1 :]
    return f"{sign}{digits[: exponent + 1]}{'.' + rest if rest else ''}".encode()


_INT8 = Codec(_read_int64, _INT64.pack, _int_text, _add_int64)
_NUMERIC = Codec(numeric.decode_numeric, numeric.encode_numeric, numeric.numeric_text, numeric.add)
_BOOL = Codec(_read_bool, _bool_binary, _bool_text)
