"""Passwords that are not ASCII: what is hashed in their place is what a real Postgres hashes (its pg_saslprep)."""

from __future__ import annotations

import hashlib
import hmac
import random
import stringprep
import unicodedata
from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.wire.saslprep import prepared
from proxy.wire.scram import Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.demo.embedded import EmbeddedServer

OLD = unicodedata.ucd_3_2_0
KINDS = (
    stringprep.in_table_a1,
    stringprep.in_table_b1,
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c8,
    stringprep.in_table_d1,
    stringprep.in_table_d2,
    lambda letter: unicodedata.combining(letter) > 0,
    lambda letter: unicodedata.normalize("NFKC", letter) != letter,
    lambda letter: unicodedata.normalize("NFKC", letter) != OLD.normalize("NFKC", letter),
)
# The four kinds that scramp reads in another way, and some that it does not.
TELLING = {
    "a space that is also mapped to nothing": "\u1806\u200b\ufeffz",
    "prohibited before it is normalized": "\u0340x",
    "nothing is left of it": "\u00ad",
    "its normal form has changed since Unicode 3.2": "\U0002f868",
    "a space": "pass\u00a0word",
    "combined": "e\u0301",
    "compatible": "\u2168",
    "both directions": "a\u0627",
    "unknown to Unicode 3.2": "\u0221",
}
MADE = """
    CREATE FUNCTION pg_temp.stored(given text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
        EXECUTE format('ALTER ROLE prepares PASSWORD %L', given);
        RETURN (SELECT rolpassword FROM pg_authid WHERE rolname = 'prepares');
    END $$
"""


@pytest.fixture
def postgres(servers: list[EmbeddedServer]) -> Iterator[psycopg.Connection]:
    """A transaction, taken back at the end, with a role `prepares` and a function that shows how a password is kept."""
    with psycopg.connect(servers[0].dsn()) as connection:
        connection.execute("CREATE ROLE prepares")
        connection.execute(MADE)
        yield connection
        connection.rollback()


def random_passwords(count: int) -> list[str]:
    chance = random.Random(3454)
    letters = [chr(code) for code in range(1, 0x30000) if not 0xD800 <= code <= 0xDFFF]
    pools = [[letter for letter in letters if kind(letter)] for kind in KINDS]
    pools.append(list("abc1 0é"))
    made = []
    for _ in range(count):
        chosen = chance.sample(pools, chance.randint(1, 3))
        made.append("".join(chance.choice(chance.choice(chosen)) for _ in range(chance.randint(1, 6))))
    return made


def test_thousands_of_passwords_are_prepared_as_postgres_prepares_them(postgres: psycopg.Connection) -> None:
    passwords = random_passwords(3_000)
    postgres.execute("SET scram_iterations = 1")
    found = postgres.execute(
        "SELECT pg_temp.stored(given) FROM unnest(%s::text[]) WITH ORDINALITY AS all_of_them(given, at) ORDER BY at",
        [passwords],
    ).fetchall()
    other = []
    for password, (text,) in zip(passwords, found, strict=True):
        verifier = Verifier.parse(text)
        salted = hashlib.pbkdf2_hmac("sha256", prepared(password).encode(), verifier.salt, verifier.iterations)
        if hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest() != verifier.stored_key:
            other.append(ascii(password))
    assert not other


@pytest.mark.parametrize("password", TELLING.values(), ids=TELLING.keys())
def test_a_verifier_is_the_one_that_postgres_makes(postgres: psycopg.Connection, password: str) -> None:
    ((text,),) = postgres.execute("SELECT pg_temp.stored(%s)", [password]).fetchall()
    verifier = Verifier.parse(text)
    assert verifier.proves(password)
    assert not verifier.proves(password + "x")
    assert Verifier.of_password(password, verifier.salt, verifier.iterations) == verifier
