"""CopyFail, beside one Postgres: which line of the data it came behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from proxy.wire.frames import frame
from proxy.wire.frontend import Query

if TYPE_CHECKING:
    from wire_client import Twins

ROWS = [b"%d\tx\n" % key for key in range(1, 9)]


@pytest.mark.parametrize("options", ["", " (header)", " (format csv, delimiter E'\\t')"])
@pytest.mark.parametrize(
    "data",
    [
        [],
        ROWS[:1],
        ROWS,
        [b"".join(ROWS)],
        [ROWS[0], ROWS[1][:3]],
        [ROWS[0][:2]],
        [b"9\ta\\\nb\n", ROWS[1]],
        [b'9\t"a\nb"\n', ROWS[1]],
        [b'9\t"a\nb', b"c\n"],
        [b"h\tb\n"],
        [b"\\.\n"],
        [ROWS[0], b"\\.\n"],
    ],
)
def test_its_context_has_the_clients_line(twins: Twins, options: str, data: list[bytes]) -> None:
    twins.same(Query(f"copy notes (k, v) from stdin{options}".encode()), until="G")
    twins.same(*(frame(b"d", part) for part in data), frame(b"f", b"no more\0"))
    twins.query("select count(*) from notes")
