"""A search_path is read as Postgres reads it."""

from __future__ import annotations

import pytest

from proxy.session.names import search_path


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"$user", public', ("me", "public")),
        ("public", ("public",)),
        ("Public,OTHER", ("public", "other")),
        ('"Mixed", "with "" quote", "a, b"', ("Mixed", 'with " quote', "a, b")),
        ("", ()),
        ('""', ()),
        (" a ,  b ", ("a", "b")),
        ("pg_temp, pg_catalog, public", ("pg_temp", "pg_catalog", "public")),
        ("$user", ("me",)),
    ],
)
def test_search_path(value: str, expected: tuple[str, ...]) -> None:
    assert search_path(value, "me") == expected
