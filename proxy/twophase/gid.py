"""Global transaction ids: ``pgchorus:<cluster>:<commit-point shard>:<uuidv7>``, with ``:<shard>`` for a participant.

From the gid alone any proxy finds the decision record: it is on the shard that the gid names. The participant's suffix
keeps two shards apart that are databases of one server, where prepared transactions share one name space (42710
otherwise).

Pure: the time and the random bits of an id are parameters. Decides which names a cluster and a shard may have; the
configuration asks ``check_name``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import UUID

PREFIX = "pgchorus"
MAX_NAME_BYTES = 48
# Postgres: 22023 from 200 bytes on. Three names, the uuid's 36 characters, the prefix and four colons stay below that.
MAX_GID_BYTES = 199
RANDOM_BITS = 74
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,48}", re.ASCII)
_MILLISECONDS_BITS = 48


class InvalidNameError(ValueError):
    """A cluster or shard name that cannot be part of a transaction id."""


@lru_cache(256)  # asked for six names in each commit
def check_name(name: str) -> str:
    """Return a cluster or shard name that may be part of a gid; raises InvalidNameError."""
    if not _NAME.fullmatch(name):
        raise InvalidNameError(f"{name!r} is not a name of 1 to {MAX_NAME_BYTES} letters, digits, '_', '.' or '-'")
    return name


def uuid7(unix_ms: int, random: int) -> UUID:
    """Return the UUIDv7 (RFC 9562) of a time in milliseconds and 74 random bits; the same input gives the same id."""
    if not 0 <= unix_ms < 1 << _MILLISECONDS_BITS:
        raise ValueError(f"not a time in milliseconds since 1970: {unix_ms}")
    if not 0 <= random < 1 << RANDOM_BITS:
        raise ValueError(f"not {RANDOM_BITS} random bits")
    high, low = random >> 62, random & ((1 << 62) - 1)
    return UUID(int=unix_ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low)


def random_of(uuid: UUID) -> int:
    """Return the random bits of a UUIDv7."""
    return (uuid.int >> 64 & 0xFFF) << 62 | uuid.int & ((1 << 62) - 1)


@dataclass(slots=True, unsafe_hash=True)  # not frozen: as in ``events``
class GlobalId:
    """One distributed transaction. ``commit_point`` is the name of the shard that holds its decision record."""

    cluster: str
    commit_point: str
    uuid: UUID
    _text: str = field(init=False, repr=False, compare=False)  # asked for a dozen times in one commit

    def __post_init__(self) -> None:
        text = f"{PREFIX}:{check_name(self.cluster)}:{check_name(self.commit_point)}:{self.uuid}"
        self._text = text

    def __str__(self) -> str:
        return self._text

    @property
    def unix_ms(self) -> int:
        """When the id was made, by the clock of the proxy that made it."""
        return self.uuid.int >> 80

    @property
    def lock_key(self) -> int:
        """The advisory lock (a signed bigint) that the commit point's backend holds while this transaction lives there.

        Made of random bits of the id: recovery sees by it whether anybody could still decide.
        """
        low = self.uuid.int & ((1 << 64) - 1)
        mixed = low ^ (self.uuid.int >> 64 & 0xFFF) << 50
        return mixed - (1 << 64) if mixed >= 1 << 63 else mixed

    def at(self, shard: str) -> str:
        """Return the name under which ``shard`` prepares its part."""
        return f"{self._text}:{check_name(shard)}"

    @classmethod
    def parse(cls, text: str) -> GlobalId | None:
        """Read a gid without a participant's suffix; None for anything that ``str`` would not give back unchanged."""
        parts = text.split(":")
        if len(parts) != 4 or parts[0] != PREFIX:  # noqa: PLR2004 - prefix, cluster, commit point, uuid
            return None
        try:
            found = cls(parts[1], parts[2], UUID(parts[3]))
        except ValueError:
            return None
        return found if str(found) == text and found.uuid.version == 7 else None  # noqa: PLR2004 - UUIDv7


def cluster_prefix(cluster: str) -> str:
    """Return what the gids of all participants of our cluster start with."""
    return f"{PREFIX}:{check_name(cluster)}:"


def parse_participant(text: str) -> tuple[GlobalId, str] | None:
    """Read a prepared transaction's name: the gid and the shard that prepared it; None for names that are not ours."""
    head, _, shard = text.rpartition(":")
    found = GlobalId.parse(head)
    return (found, shard) if found is not None and _NAME.fullmatch(shard) else None
