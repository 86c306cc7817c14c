"""Integers read out of messages without an expression: what is accepted is what an expression accepts."""

from __future__ import annotations

import random
import re

import pytest

from router.digits import BindShape, QueryShape

BEFORE, BEHIND = b"SELECT a FROM t WHERE k = ", b" AND b = '1';\0"
TEXT = re.compile(b"Q\0\0.." + re.escape(BEFORE) + rb"(\d{1,9})" + re.escape(BEHIND), re.DOTALL)
PARSE = b"P\0\0\0\x0b\0a.b\0\0\0"
MIDDLE, TAIL = b"\0p\0\0\0\0\1\0\0\0", b"\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\4"
REST = 4 + len(MIDDLE) + 1 + 2


def _bind(digits: bytes) -> bytes:
    return PARSE + b"B\0\0\0" + bytes([REST + len(digits)]) + MIDDLE + bytes([len(digits)]) + digits + TAIL


def _by_expressions(data: bytes) -> int:
    """As proxy.wire.pipeline.Shape reads it."""
    parts = [re.escape(part) for part in (PARSE + b"B\0\0\0", MIDDLE, TAIL)]
    found = re.fullmatch(parts[0] + b"(.)" + parts[1] + b"(.)([1-9][0-9]{0,8})" + parts[2], data, re.DOTALL)
    if found is None or found[2][0] != len(found[3]) or found[1][0] != REST + len(found[3]):
        return -1
    return int(found[3])


def _query(digits: bytes) -> bytes:
    text = BEFORE + digits + BEHIND
    return b"Q" + (len(text) + 4).to_bytes(4, "big") + text


def _by_expression(data: bytes) -> int:
    found = TEXT.fullmatch(data)
    return int(found[1]) if found is not None and int.from_bytes(data[1:5], "big") + 1 == len(data) else -1


@pytest.mark.parametrize("digits", [b"", b"0", b"7", b"007", b"123456789", b"1234567890", b"12x", b"-1", b"\xb2"])
def test_the_key_of_a_query(digits: bytes) -> None:
    data = _query(digits)
    assert QueryShape(BEFORE, BEHIND).key(data) == _by_expression(data)
    assert (_by_expression(data) >= 0) == (digits in {b"0", b"7", b"007", b"123456789"})


@pytest.mark.parametrize("digits", [b"", b"0", b"7", b"07", b"123456789", b"1234567890", b"12x", b"-1", b"\xb2"])
def test_the_key_of_a_bind(digits: bytes) -> None:
    data = _bind(digits)
    assert BindShape(PARSE, REST, MIDDLE, TAIL).key(data) == _by_expressions(data)
    assert (_by_expressions(data) > 0) == (digits in {b"7", b"123456789"})


def test_damaged_messages() -> None:
    """Bytes lost, doubled and changed: whatever is taken for a key, an expression takes for the same."""
    draw = random.Random(20260)
    shape = BindShape(PARSE, REST, MIDDLE, TAIL)
    accepted = 0
    for _ in range(4_000):
        digits = str(draw.randrange(1, 10 ** draw.randrange(1, 11))).encode()
        query, bind = (bytearray(data) for data in (_query(digits), _bind(digits)))
        for data in (query, bind):
            for _ in range(draw.randrange(3)):
                at = draw.randrange(len(data))
                data[at : at + draw.randrange(2)] = bytes(draw.choices(b"\0\1B0159PQ", k=draw.randrange(2)))
        assert QueryShape(BEFORE, BEHIND).key(bytes(query)) == _by_expression(bytes(query)), bytes(query)
        assert shape.key(bytes(bind)) == _by_expressions(bytes(bind)), bytes(bind)
        accepted += _by_expressions(bytes(bind)) > 0
    assert accepted > 200
