from __future__ import annotations

import pytest

from proxy.shards.endpoint import ShardEndpoint


@pytest.mark.parametrize(
    ("dsn", "user", "database"),
    [
        ("postgres://ada@h:1/db", "ada", "db"),
        ("postgres://ada:se%40cret@h1:1,h2:2/db?target_session_attrs=primary", "ada", "db"),
        ("postgres://a%40b@h/d%20b", "a@b", "d b"),
        ("postgres://h/db?user=ada", "ada", "db"),
        ("postgres:///?host=/run/pg&user=ada&dbname=db", "ada", "db"),
        ("postgres://ada@h", "ada", "ada"),
        ("postgres://h", None, None),
    ],
)
def test_user_and_database_of_a_dsn(dsn: str, user: str | None, database: str | None) -> None:
    endpoint = ShardEndpoint("s0", 0, dsn)
    assert (endpoint.user, endpoint.database) == (user, database)
    assert endpoint.dsn_for(user or "") == dsn or user is None


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgres://ada:secret@h1:1,h2:2/db?a=b", "postgres://ada@h1:1,h2:2/db?a=b"),
        ("postgres://h/db?user=ada&password=secret&a=b", "postgres://h/db?user=ada&a=b"),
        ("postgres://ada@h/db", "postgres://ada@h/db"),
        ("postgres://ada:s@h/db?password=secret", "postgres://ada@h/db"),
    ],
)
def test_another_roles_password_is_left_out(dsn: str, expected: str) -> None:
    assert ShardEndpoint("s0", 0, dsn).dsn_for("grace") == expected


def test_no_password_in_what_is_printed() -> None:
    endpoint = ShardEndpoint("s0", 0, "postgres://ada:secret@h/db")
    assert "secret" not in f"{endpoint} {endpoint!r}"


@pytest.mark.parametrize(
    ("dsn", "addresses"),
    [
        ("postgres://ada@h/db", ["h:5432"]),
        ("postgres://ada:p@h1,h2:5433/db?target_session_attrs=read-write", ["h1:5432", "h2:5433"]),
        ("postgres://ada@[::1]:7,10.0.0.1/db", ["[::1]:7", "10.0.0.1:5432"]),
    ],
)
def test_its_servers(dsn: str, addresses: list[str]) -> None:
    endpoint = ShardEndpoint("s0", 0, dsn)
    assert [str(address) for address in endpoint.addresses] == addresses
    assert endpoint.has_several == (len(addresses) > 1)
