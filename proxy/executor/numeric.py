"""Postgres's numeric: its wire form, its text, and exact sums and quotients with the display scale that Postgres gives.

Pure. A value is a ``decimal.Decimal`` whose exponent is minus the display scale, so ``1.00`` stays ``1.00``; NaN and
the infinities are Decimal's own. Nothing is ever rounded except a quotient, whose scale is chosen as Postgres's
``select_div_scale`` documents it (at least 16 significant digits, and no less than either operand shows).

https://www.postgresql.org/docs/18/datatype-numeric.html
"""

from __future__ import annotations

from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, ROUND_DOWN, ROUND_HALF_UP, Context, Decimal
from struct import Struct, unpack_from

from proxy.executor.failure import CombineFailure

_DIGIT_WIDTH = 4  # decimal digits in one base-10000 digit
_BASE = 10_000
_POSITIVE, _NEGATIVE, _NAN, _POSITIVE_INFINITY, _NEGATIVE_INFINITY = 0x0000, 0x4000, 0xC000, 0xD000, 0xF000
_INFINITY_SCALE = 0x20  # means nothing, but it is what Postgres sends
_HEADER = Struct(">HhHH")
_LARGEST_WEIGHT = 0x7FFF
_MIN_SIGNIFICANT_DIGITS = 16
_MAX_DISPLAY_SCALE = 1000

# Traps are off: NaN and Infinity are values here. The precision is more than any numeric has, so nothing is rounded by
# it.
_EXACT = Context(prec=400_000, Emax=MAX_EMAX, Emin=MIN_EMIN, rounding=ROUND_HALF_UP, traps=[])
NAN = Decimal("NaN")
assert _EXACT.prec <= MAX_PREC  # noqa: S101 - what the platform's decimal can do


def decode_numeric(data: bytes) -> Decimal:
    """Read numeric's binary format."""
    count, weight, sign, scale = _HEADER.unpack_from(data)
    if sign not in (_POSITIVE, _NEGATIVE):
        return Decimal({_NAN: "NaN", _POSITIVE_INFINITY: "Infinity"}.get(sign, "-Infinity"))
    digits = unpack_from(f">{count}H", data, _HEADER.size)
    text = "".join([f"{digit:04d}" for digit in digits]) or "0"
    # The digits count from base 10000's power ``weight`` downwards.
    exponent = (weight - count + 1) * _DIGIT_WIDTH
    value = Decimal(f"{'-' if sign == _NEGATIVE else ''}{text}E{exponent}" if count else "0")
    return _rescale(value, scale)


def _rescale(value: Decimal, scale: int) -> Decimal:
    """Give a value its display scale, rounding half away from zero where digits are lost."""
    return value.quantize(Decimal((0, (1,), -scale)), context=_EXACT)


def encode_numeric(value: Decimal) -> bytes:
    """Build numeric's binary format."""
    if value.is_nan():
        return _HEADER.pack(0, 0, _NAN, 0)
    if value.is_infinite():
        return _HEADER.pack(0, 0, _POSITIVE_INFINITY if value > 0 else _NEGATIVE_INFINITY, _INFINITY_SCALE)
    whole, _, fraction = format(value.copy_abs(), "f").partition(".")
    scale = len(fraction)
    whole = whole.lstrip("0")
    whole = whole.zfill(-(-len(whole) // _DIGIT_WIDTH) * _DIGIT_WIDTH)
    fraction = fraction.ljust(-(-scale // _DIGIT_WIDTH) * _DIGIT_WIDTH, "0")
    text = whole + fraction
    digits = [int(text[at : at + _DIGIT_WIDTH]) for at in range(0, len(text), _DIGIT_WIDTH)]
    weight = len(whole) // _DIGIT_WIDTH - 1
    first = next((at for at, digit in enumerate(digits) if digit), len(digits))
    digits = digits[first:]
    weight -= first
    while digits and not digits[-1]:
        digits.pop()
    if not digits:
        return _HEADER.pack(0, 0, _POSITIVE, scale)
    if weight > _LARGEST_WEIGHT:
        raise overflow()
    sign = _NEGATIVE if value.is_signed() else _POSITIVE
    return _HEADER.pack(len(digits), weight, sign, scale) + Struct(f">{len(digits)}H").pack(*digits)


def numeric_text(value: Decimal) -> bytes:
    """Return numeric's text format."""
    if value.is_nan():
        return b"NaN"
    if value.is_infinite():
        return b"Infinity" if value > 0 else b"-Infinity"
    return format(value, "f").encode()


def overflow() -> CombineFailure:
    """Make Postgres's error for a number with too many digits before the point."""
    return CombineFailure("22003", "value overflows numeric format")


def add(one: Decimal, other: Decimal) -> Decimal:
    """Add exactly; the display scale is the larger one. NaN and opposite infinities give NaN."""
    total = _EXACT.add(one, other)
    if total.is_nan():
        return NAN
    if not total:
        return total.copy_abs()
    if total.is_finite() and total.adjusted() >= (_LARGEST_WEIGHT + 1) * _DIGIT_WIDTH:
        raise overflow()
    return total


def divide(dividend: Decimal, divisor: int) -> Decimal:
    """Divide by a positive count as Postgres's numeric division does: its scale, rounding half away from zero."""
    if not dividend.is_finite():
        return dividend
    count = Decimal(divisor)
    scale = _division_scale(dividend, count)
    # Truncated with one digit too many, which is all that rounding half away from zero looks at.
    quotient = _EXACT.scaleb(_EXACT.divide_int(_EXACT.scaleb(dividend, scale + 1), count), -(scale + 1))
    value = _rescale(quotient, scale)
    return value or value.copy_abs()


def _division_scale(dividend: Decimal, divisor: Decimal) -> int:
    weight1, first1 = _leading(dividend)
    weight2, first2 = _leading(divisor)
    weight = weight1 - weight2 - (1 if first1 <= first2 else 0)
    scale = max(_MIN_SIGNIFICANT_DIGITS - weight * _DIGIT_WIDTH, _scale(dividend), _scale(divisor), 0)
    return min(scale, _MAX_DISPLAY_SCALE)


def _leading(value: Decimal) -> tuple[int, int]:
    """Return the weight and the value of the first base-10000 digit that is not zero; zeros for zero."""
    if not value:
        return 0, 0
    weight = value.adjusted() // _DIGIT_WIDTH
    head = _EXACT.scaleb(value.copy_abs(), -weight * _DIGIT_WIDTH)
    return weight, int(head.to_integral_value(ROUND_DOWN, context=_EXACT))


def _scale(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


def of_int(value: int) -> Decimal:
    """Make a numeric of an integer of any size."""
    return Decimal(value)
