"""Command tags of several shards as one."""

from __future__ import annotations

import pytest

from proxy.executor import tags
from proxy.executor.failure import CombineFailure


@pytest.mark.parametrize(
    ("given", "sum_of_them"),
    [
        ([b"UPDATE 3", b"UPDATE 4"], b"UPDATE 7"),
        ([b"INSERT 0 5", b"INSERT 0 0", b"INSERT 0 1"], b"INSERT 0 6"),
        ([b"SELECT 0"], b"SELECT 0"),
        ([b"COPY 12", b"COPY 30"], b"COPY 42"),
        ([b"MERGE 1", b"MERGE 1"], b"MERGE 2"),
        ([b"CREATE TABLE", b"CREATE TABLE"], b"CREATE TABLE"),
        ([b"EXPLAIN", b"EXPLAIN"], b"EXPLAIN"),
    ],
)
def test_add(given: list[bytes], sum_of_them: bytes) -> None:
    assert tags.add(given) == sum_of_them


def test_counted() -> None:
    assert tags.counted(b"SELECT 9", 4) == b"SELECT 4"
    assert tags.counted(b"INSERT 0 9", 4) == b"INSERT 0 4"
    assert tags.counted(b"SHOW", 4) == b"SHOW"
    assert tags.counted(b"DROP TABLE", 1) == b"DROP TABLE"


def test_different_work_is_an_error() -> None:
    for combine, given in ((tags.add, [b"UPDATE 3", b"DELETE 3"]), (tags.agree, [b"UPDATE 3", b"UPDATE 4"])):
        with pytest.raises(CombineFailure) as raised:
            combine(given)
        assert raised.value.sqlstate == "XX000"
        assert given[0].decode() in raised.value.detail
        assert given[1].decode() in raised.value.detail
    assert tags.agree([b"UPDATE 3", b"UPDATE 3"]) == b"UPDATE 3"
