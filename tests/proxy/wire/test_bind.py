"""The cheap views of Bind agree with the whole decoder, on good bodies and on bad ones."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.wire.bind import (
    bind_names,
    bind_parameter,
    bind_parameter_count,
    bind_parameters,
    bind_result_formats,
    rename_bind,
    rename_parse,
)
from proxy.wire.errors import ProtocolViolation
from proxy.wire.frontend import Bind, Parse, decode, decode_bind

DETERMINISTIC = settings(derandomize=True, deadline=None, print_blob=True)

names = st.binary(max_size=8).map(lambda data: data.replace(b"\0", b""))


@st.composite
def binds(draw: st.DrawFn) -> Bind:
    parameters = tuple(draw(st.lists(st.none() | st.binary(max_size=9), max_size=6)))
    count = draw(st.sampled_from([0, 1, len(parameters)]))
    codes = tuple(draw(st.lists(st.sampled_from([0, 1]), min_size=count, max_size=count)))
    return Bind(draw(names), draw(names), codes, parameters, tuple(draw(st.lists(st.sampled_from([0, 1]), max_size=3))))


def format_of(message: Bind, number: int) -> int:
    codes = message.parameter_formats
    return 0 if not codes else codes[0] if len(codes) == 1 else codes[number - 1]


@DETERMINISTIC
@given(message=binds(), data=st.data())
def test_views_agree_with_the_whole(message: Bind, data: st.DataObject) -> None:
    body = message.encode()[5:]
    count = len(message.parameters)
    wanted = [(format_of(message, number), message.parameters[number - 1]) for number in range(1, count + 1)]
    assert bind_names(body) == (message.portal, message.statement)
    assert bind_parameter_count(body) == count
    assert bind_result_formats(body) == message.result_formats
    assert [bind_parameter(body, number) for number in range(1, count + 1)] == wanted
    numbers = data.draw(st.lists(st.integers(1, count), max_size=5)) if count else []
    assert bind_parameters(body, numbers) == [wanted[number - 1] for number in numbers]


@DETERMINISTIC
@given(message=binds(), portal=names, statement=names)
def test_rename_changes_names_alone(message: Bind, portal: bytes, statement: bytes) -> None:
    renamed = rename_bind(message.encode()[5:], portal, statement)
    wanted = Bind(portal, statement, message.parameter_formats, message.parameters, message.result_formats)
    assert renamed == wanted.encode()


@DETERMINISTIC
@given(query=names, old=names, new=names, oids=st.lists(st.integers(0, 2**32 - 1), max_size=3).map(tuple))
def test_rename_parse_changes_the_name_alone(query: bytes, old: bytes, new: bytes, oids: tuple[int, ...]) -> None:
    assert rename_parse(Parse(old, query, oids).encode()[5:], new) == Parse(new, query, oids).encode()


@pytest.mark.parametrize("number", [0, -1, 3, 70_000])
def test_a_number_that_the_body_does_not_have(number: int) -> None:
    body = Bind(b"", b"", (0, 1), (b"a", b"b")).encode()[5:]
    with pytest.raises(IndexError, match=str(number)):
        bind_parameter(body, number)
    with pytest.raises(IndexError, match=str(number)):
        bind_parameters(body, (1, number))


def test_no_numbers_give_nothing() -> None:
    assert bind_parameters(Bind(b"", b"").encode()[5:], ()) == []


BAD = [
    (b"", "invalid string in message"),
    (b"ab", "invalid string in message"),
    (b"ab\0", "invalid string in message"),
    (b"\0\0", "insufficient data left in message"),
    (b"\0\0\0", "insufficient data left in message"),
    (b"\0\0\0\0", "insufficient data left in message"),
    (b"\0\0\0\2\0\1", "insufficient data left in message"),
    (b"\0\0\0\0\0\1", "insufficient data left in message"),
    (b"\0\0\0\0\0\1" + pack(">i", 5) + b"abcd", "insufficient data left in message"),
    (b"\0\0\0\0\0\1" + pack(">i", -2), "insufficient data left in message"),
    (b"\0\0\0\0\0\1" + pack(">i", 2**31 - 1), "insufficient data left in message"),
    (b"\0\0\0\2\0\0\0\0\0\1" + pack(">i", -1), "bind message has 2 parameter formats but 1 parameters"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_a_bad_body_is_the_same_to_all(body: bytes, message: str) -> None:
    for read in (decode_bind, lambda data: bind_parameter(data, 1), lambda data: bind_parameters(data, (1,))):
        with pytest.raises(ProtocolViolation) as caught:
            read(body)
        assert (caught.value.sqlstate, caught.value.message, caught.value.fatal) == ("08P01", message, False)


def test_a_lie_in_a_value_that_is_passed_over() -> None:
    for length in (-2, 9, 2**31 - 1):
        body = b"\0\0\0\0\0\2" + pack(">i", length) + pack(">i", 1) + b"x\0\0"
        for read in (decode_bind, lambda data: bind_parameter(data, 2), lambda data: bind_parameters(data, (2,))):
            with pytest.raises(ProtocolViolation, match="insufficient data left in message"):
                read(body)


@pytest.mark.parametrize("body", [b"", b"a", b"a\0", b"a\0b"])
def test_names_without_ends_cannot_be_replaced(body: bytes) -> None:
    for read in (bind_names, lambda data: rename_bind(data, b"", b"")):
        with pytest.raises(ProtocolViolation, match="invalid string in message"):
            read(body)


@DETERMINISTIC
@given(body=st.binary(max_size=40), number=st.integers(1, 4))
def test_any_bytes_give_what_the_whole_gives_or_a_violation(body: bytes, number: int) -> None:
    for data in (body, b"\0\0\0\0\0\3" + body):
        try:
            one = bind_parameter(data, number)
        except (ProtocolViolation, IndexError) as error:
            with pytest.raises(type(error)):
                bind_parameters(data, (number,))
            continue
        assert bind_parameters(data, (number,)) == [one]
        try:
            whole = decode(ord("B"), data)
        except ProtocolViolation:
            continue
        assert isinstance(whole, Bind)
        assert one == (format_of(whole, number), whole.parameters[number - 1])
