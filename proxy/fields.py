"""What the quick lane reads and writes of objects that are not compiled: fields of a struct in the compiled build.

Looking an attribute up by its name costs compiled code 200 instructions, and a field three (docs/hot-path.md).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from proxy.native import mypyc_attr

if TYPE_CHECKING:
    from router.plan import Statement


@mypyc_attr(allow_interpreted_subclasses=True)
class SessionFields:
    """Of proxy.session.session.Session."""

    def __init__(self) -> None:
        self.in_query = False  # a message is being handled: a vanished client's statement must be stopped
        self.running: tuple[Statement, ...] = ()  # what the message runs; () until that is planned


@mypyc_attr(allow_interpreted_subclasses=True)
class CountsFields:
    """Of proxy.admin.counts.Counts."""

    __slots__ = ("notable_s",)

    def __init__(self) -> None:
        #: A statement that takes longer is worth a look (proxy.session.meter).
        self.notable_s = inf


@mypyc_attr(allow_interpreted_subclasses=True)
class DatabaseFields:
    """Of proxy.database.LogicalDatabase."""

    def __init__(self) -> None:
        #: Counts the catalogs by which it was planned, and whatever else fast lanes may not begin anything after.
        self.catalog_version = 0
