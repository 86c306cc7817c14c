"""Messages of a commit that links may send bound: texts that know which values stand in them (proxy.shards.bound).

Each is a text like any other and may be run as one. What is made of it by adding to it is a plain text, without values.
"""

from __future__ import annotations

from typing import Self


class Ready(str):
    """Step 1 of a commit point. ``values``: its limit on a silent proxy in milliseconds, and the lock's key."""

    __slots__ = ("values",)

    values: tuple[str, str]

    def __new__(cls, text: str, values: tuple[str, str]) -> Self:
        """Keep the values, which are those in the text."""
        made = super().__new__(cls, text)
        made.values = values
        return made


class Decision(str):
    """Step 2, with its COMMIT. ``values``: gid, xid, participants, their xids, epoch, proof in hexadecimal digits."""

    __slots__ = ("values",)

    values: tuple[str, str, str, str, str, str]

    def __new__(cls, text: str, values: tuple[str, str, str, str, str, str]) -> Self:
        """Keep the values, which are those in the text."""
        made = super().__new__(cls, text)
        made.values = values
        return made
