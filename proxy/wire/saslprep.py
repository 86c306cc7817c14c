"""How Postgres prepares a password before it is hashed for SCRAM (its pg_saslprep, after RFC 4013).

Libraries do it by the letter of the RFC, which looks for what is prohibited in what normalizing has made; Postgres
looks at what was there before, and normalizes by its newest Unicode. Whoever logs in to Postgres with a password that
tells these apart has to get in here as well. The characters of the tables are those of RFC 3454 (Python's
``stringprep``).
"""

from __future__ import annotations

import stringprep
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

if TYPE_CHECKING:
    from collections.abc import Callable

_PROHIBITED: Final[tuple[Callable[[str], bool], ...]] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def prepared(password: str) -> str:
    """Return what is hashed in place of a password: itself where preparing fails, as for bytes that are no UTF-8.

    Takes time that grows with the square of the length where marks are combined.
    """
    if password.isascii() or any("\ud800" <= letter <= "\udfff" for letter in password):
        return password
    # A space of U+200B is one, although it is on the list of what is mapped to nothing, too.
    mapped = "".join(
        " " if stringprep.in_table_c12(letter) else letter
        for letter in password
        if stringprep.in_table_c12(letter) or not stringprep.in_table_b1(letter)
    )
    if not mapped or any(prohibits(letter) for letter in mapped for prohibits in _PROHIBITED):
        return password
    if any(map(stringprep.in_table_d1, mapped)):  # letters that are written from right to left
        if any(map(stringprep.in_table_d2, mapped)):
            return password
        if not (stringprep.in_table_d1(mapped[0]) and stringprep.in_table_d1(mapped[-1])):
            return password
    return normalize("NFKC", mapped)
