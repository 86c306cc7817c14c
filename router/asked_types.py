"""Which types travel in a parameter as a list of their values, and how.

Decides by OIDs of built-in types, which are the same on every server. A type has to come back from its list as the very
value that it was: most do in binary. Those that have no list of their own here (arrays: a list of arrays is a matrix)
go as texts, where text is exact under any setting: not floats, moments or money.
"""

from __future__ import annotations

from typing import Final

TEXT: Final = 25
FIRST_OWN: Final = 16384  # types of users: their OIDs differ from shard to shard

LISTS: Final = {
    16: 1000, 17: 1001, 18: 1002, 19: 1003, 20: 1016, 21: 1005, 23: 1007, 25: 1009, 26: 1028, 114: 199, 650: 651,
    700: 1021, 701: 1022, 774: 775, 790: 791, 829: 1040, 869: 1041, 1042: 1014, 1043: 1015, 1082: 1182, 1083: 1183,
    1114: 1115, 1184: 1185, 1186: 1187, 1266: 1270, 1560: 1561, 1562: 1563, 1700: 1231, 2950: 2951, 3220: 3221,
    3802: 3807, 3904: 3905, 3906: 3907, 3908: 3909, 3910: 3911, 3912: 3913, 3926: 3927,
}  # fmt: skip
"""Binary lists: the array type of each."""

TEXTS: Final = frozenset({1000, 1003, 1005, 1007, 1009, 1014, 1015, 1016, 1028, 1182, 1231, 2951, 3807})
"""Arrays that go as texts."""


def travels(type_oid: int, base_type_oid: int = 0, *, enum: bool = False) -> bool:
    """Whether a list of values of a column's type can be a parameter; 0: nobody knows its type (or base type)."""
    found = base_type_oid or type_oid
    return enum or not found or found in LISTS or found in TEXTS
