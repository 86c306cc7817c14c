"""The usual pipeline is recognised exactly: whatever is accepted, the decoders read the same."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.wire import frontend
from proxy.wire.frames import walk
from proxy.wire.frontend import Bind, Describe, Execute, Parse, Sync
from proxy.wire.pipeline import read_parameter, read_pipeline

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
