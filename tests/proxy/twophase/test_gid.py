from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.twophase.gid import (
    MAX_GID_BYTES,
    GlobalId,
    InvalidNameError,
    check_name,
    cluster_prefix,
    parse_participant,
    uuid7,
)

names = st.from_regex(r"[A-Za-z0-9_.-]{1,48}", fullmatch=True)


@given(names, names, names, st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 74) - 1))
def test_a_gid_is_read_as_it_was_written(
    cluster: str, commit_point: str, shard: str, unix_ms: int, random: int
) -> None:
    gid = GlobalId(cluster, commit_point, uuid7(unix_ms, random))
    text = gid.at(shard)
    assert GlobalId.parse(str(gid)) == gid
    assert parse_participant(text) == (gid, shard)
    assert gid.unix_ms == unix_ms
    assert gid.uuid.version == 7
    assert gid.uuid.variant == "specified in RFC 4122"
    assert text.startswith(cluster_prefix(cluster))
    assert len(text.encode()) <= MAX_GID_BYTES
    assert -(1 << 63) <= gid.lock_key < 1 << 63


def test_names_of_the_greatest_length_stay_below_postgres_limit() -> None:
    longest = "x" * 48
    assert len(GlobalId(longest, longest, uuid7(0, 0)).at(longest).encode()) == 192 <= MAX_GID_BYTES


@pytest.mark.parametrize("name", ["", "a:b", "a'b", "ä", "x" * 49, "a b", "a\n", 'a"', "a%"])
def test_names_that_cannot_be_in_a_gid_are_refused(name: str) -> None:
    with pytest.raises(InvalidNameError):
        check_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "foo",
        "pgchorus:c:s0",
        "pgchorus:c:s0:not-a-uuid",
        "pgchorus:c:s0:01A2020E-5B17-7BF7-B291-5F6983081D17",
        "pgchorus:c:s0:01a2020e5b177bf7b2915f6983081d17",
        "pgchorus:c:s0:9f1708f0-5b17-4bf7-b291-5f6983081d17",
        "pgchorus:c:s'0:01a2020e-5b17-7bf7-b291-5f6983081d17",
        "other:c:s0:01a2020e-5b17-7bf7-b291-5f6983081d17",
    ],
)
def test_what_is_not_ours_is_not_read(text: str) -> None:
    assert GlobalId.parse(text) is None
    assert parse_participant(f"{text}:s1") is None


def test_ids_of_later_times_sort_later_and_equal_input_gives_equal_ids() -> None:
    assert uuid7(1000, 5) == uuid7(1000, 5) == UUID(int=uuid7(1000, 5).int)
    assert str(uuid7(1000, (1 << 74) - 1)) < str(uuid7(1001, 0))


def test_lock_keys_of_different_transactions_differ() -> None:
    keys = {GlobalId("c", "s0", uuid7(1000, random)).lock_key for random in range(2000)}
    assert len(keys) == 2000


@pytest.mark.parametrize(("unix_ms", "random"), [(-1, 0), (1 << 48, 0), (0, -1), (0, 1 << 74)])
def test_times_and_random_bits_have_their_range(unix_ms: int, random: int) -> None:
    with pytest.raises(ValueError, match="not"):
        uuid7(unix_ms, random)
