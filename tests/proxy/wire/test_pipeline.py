"""The usual pipeline is recognised exactly: whatever is accepted, the decoders read the same."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.wire import frontend
from proxy.wire.frames import walk
from proxy.wire.frontend import Bind, Describe, Execute, Parse, Sync
from proxy.wire.pipeline import add_parameters, read_parameter, read_pipeline, shape_of

ENDINGS = {
    True: Describe(b"P", b"").encode() + Execute(b"", 0).encode() + Sync().encode(),
    False: Execute(b"", 0).encode() + Sync().encode(),
}
NAMES = st.binary(max_size=8).map(lambda name: name.replace(b"\0", b"x"))
VALUES = st.lists(st.none() | st.binary(max_size=12), max_size=5)


@given(name=NAMES, values=VALUES, described=st.booleans(), parses=st.booleans(), data=st.data())
def test_what_drivers_send_is_recognised(
    *, name: bytes, values: list[bytes | None], described: bool, parses: bool, data: st.DataObject
) -> None:
    formats = data.draw(st.sampled_from([(), (1,), tuple(n % 2 for n in range(len(values)))]))
    beginning = Parse(name, b"SELECT $1", (23,)).encode() if parses else b""
    message = Bind(b"", name, formats, tuple(values), (0,))
    whole = beginning + message.encode() + ENDINGS[described]
    cut = read_pipeline(whole)
    assert cut is not None
    assert (cut.bind, cut.described) == (len(beginning), described)
    assert whole[cut.bind + 6 : cut.name_end] == name
    assert whole[cut.bind : cut.bind_end] == message.encode()
    for index, value in enumerate(values):
        form = 0 if not formats else formats[0] if len(formats) == 1 else formats[index]
        assert read_parameter(whole, cut.name_end + 1, cut.bind_end, len(values), index) == (value, form)
    assert read_parameter(whole, cut.name_end + 1, cut.bind_end, len(values) + 1, 0) is None


@given(data=st.binary(max_size=60), ended=st.booleans())
@example(data=b"B\0\0\0\4", ended=True)
@example(data=b"P", ended=False)
@example(data=b"P\0\0\0\4", ended=False)
@example(data=b"P\xff\xff\xff\xff", ended=False)
def test_any_bytes_are_read_or_left(*, data: bytes, ended: bool) -> None:
    whole = data + ENDINGS[ended]
    if not whole:
        return
    cut = read_pipeline(whole)
    if cut is not None:
        index, rest = walk(whole, 0, len(whole))
        assert rest == len(whole)
        assert [chr(kind) for kind, _, _ in index][-2:] == ["E", "S"]


@given(st.binary(max_size=40), st.integers(0, 3))
def test_a_bind_that_is_accepted_is_well_formed(rest: bytes, count: int) -> None:
    body = b"\0s\0" + rest
    whole = b"B" + (len(body) + 4).to_bytes(4, "big") + body + ENDINGS[False]
    cut = read_pipeline(whole)
    assert cut is not None
    accepted = read_parameter(whole, cut.name_end + 1, cut.bind_end, count, count - 1)
    if accepted is not None:
        decoded = frontend.decode(ord("B"), body)
        assert isinstance(decoded, Bind)
        assert len(decoded.parameters) == count
        assert not count or decoded.parameters[count - 1] == accepted.data


@pytest.mark.parametrize(
    "data",
    [
        Bind(b"portal", b"s").encode() + ENDINGS[True],
        Bind(b"", b"s").encode() + Execute(b"", 5).encode() + Sync().encode(),
        Bind(b"", b"s").encode() + Execute(b"", 0).encode(),
        Bind(b"", b"s").encode() + ENDINGS[True] + Sync().encode(),
        Bind(b"", b"s").encode() * 2 + ENDINGS[True],
        Parse(b"", b"SELECT 1", ()).encode() + ENDINGS[True],
        Describe(b"P", b"").encode() + ENDINGS[True],
    ],
)
def test_anything_else_is_left(data: bytes) -> None:
    assert read_pipeline(data) is None


INTEGERS = st.lists(st.integers(-(10**9) + 1, 10**9 - 1), min_size=1, max_size=4)


def pipeline(values: list[bytes | None], name: bytes = b"s", results: tuple[int, ...] = (0,)) -> bytes:
    beginning = b"" if name else Parse(b"", b"SELECT $1", ()).encode()
    return beginning + Bind(b"", name, (), tuple(values), results).encode() + ENDINGS[True]


@given(first=INTEGERS, second=st.data(), named=st.booleans())
def test_a_shape_matches_what_differs_in_integers_only(first: list[int], second: st.DataObject, *, named: bool) -> None:
    name = b"s" if named else b""
    key = second.draw(st.integers(0, len(first) - 1))
    data = pipeline([str(value).encode() for value in first], name)
    cut = read_pipeline(data)
    assert cut is not None
    shape = shape_of(data, cut, len(first), key)
    assert shape is not None
    others = second.draw(st.lists(st.integers(-(10**10), 10**10), min_size=len(first), max_size=len(first)))
    other = pipeline([str(value).encode() for value in others], name)
    matched = shape.match(other)
    short = all(len(str(abs(value))) <= 9 for value in others)
    assert matched == (str(others[key]).encode() if short and others[key] > 0 else None)
    if matched is not None:
        assert shape.cut(other) == read_pipeline(other)
    assert (shape.exact is None) == (len(first) > 1)
    if shape.exact is not None:
        found = shape.exact(other)
        assert matched == (found and found[found.lastindex or 0])


@given(data=st.data())
def test_a_shape_matches_nothing_that_a_decoder_reads_otherwise(data: st.DataObject) -> None:
    """Any byte changed: what still matches is a whole pipeline with another integer."""
    whole = pipeline([b"12", b"345"])
    cut = read_pipeline(whole)
    assert cut is not None
    shape = shape_of(whole, cut, 2, 1)
    assert shape is not None
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] = data.draw(st.integers(0, 255))
    matched = shape.match(bytes(changed))
    if matched is not None:
        read = read_pipeline(bytes(changed))
        assert read is not None
        assert read_parameter(bytes(changed), read.name_end + 1, read.bind_end, 2, 1) == (matched, 0)


@given(data=st.data(), digits=st.integers(1, 9))
def test_an_exact_expression_matches_what_the_shape_does(data: st.DataObject, digits: int) -> None:
    whole = pipeline([b"1" * digits])
    cut = read_pipeline(whole)
    assert cut is not None
    shape = shape_of(whole, cut, 1, 0)
    assert shape is not None
    assert shape.exact is not None
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    found = shape.exact(bytes(changed))
    assert shape.match(bytes(changed)) == (found and found[found.lastindex or 0])


@pytest.mark.parametrize("values", [[None], [b"seven"], [b""], [b"1234567890"]])
def test_other_values_have_no_shape(values: list[bytes | None]) -> None:
    data = pipeline(values)
    cut = read_pipeline(data)
    assert cut is not None
    assert shape_of(data, cut, 1, 0) is None


@given(values=VALUES, added=st.lists(st.binary(max_size=9), max_size=3), parses=st.booleans(), data=st.data())
def test_parameters_are_added_behind_the_clients_own(
    *, values: list[bytes | None], added: list[bytes], parses: bool, data: st.DataObject
) -> None:
    each = tuple(n % 2 for n in range(len(values)))
    formats = data.draw(st.sampled_from([(), (0,), (1,), each]))
    results = data.draw(st.sampled_from([(), (1,), (0, 1)]))
    beginning = Parse(b"", b"SELECT $1", (23,)).encode() if parses else b""
    whole = beginning + Bind(b"", b"mine", formats, tuple(values), results).encode() + ENDINGS[True]
    cut = read_pipeline(whole)
    assert cut is not None
    all_formats = (*(each if formats == each else (formats or (0,)) * len(values)), *[1] * len(added))
    wanted = Bind(b"", b"name", all_formats, (*values, *added), results).encode() + ENDINGS[True]
    assert add_parameters(whole, cut, len(values), b"\0name\0", added) == wanted
