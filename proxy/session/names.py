"""Reading identifier lists of settings (search_path), and which schemas of them count for a role."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from router.catalog import Catalog

_MANY: Final = 1024


@lru_cache(maxsize=1024)
def search_path(value: str, role: str) -> tuple[str, ...]:
    """Split a search_path as Postgres does: folded to lower case unless quoted; "$user" is the role."""
    schemas: list[str] = []
    position, end = 0, len(value)
    while position < end:
        if value[position] in ", \t\n":
            position += 1
        elif value[position] == '"':
            name = ""
            position += 1
            while position < end:
                if value[position] == '"':
                    if value[position + 1 : position + 2] != '"':
                        break
                    position += 1
                name += value[position]
                position += 1
            position += 1
            schemas.append(name)
        else:
            start = position
            while position < end and value[position] not in ", \t\n":
                position += 1
            schemas.append(value[start:position].lower())
    return tuple(role if name == "$user" else name for name in schemas if name)


def effective_path(catalog: Catalog, value: str, role: str) -> tuple[str, ...]:
    """Return the schemas of a search_path in which ``role`` finds names; kept with the catalog that says so."""
    found = search_path(value, role)
    if catalog.rights is not None:
        found = catalog.rights.path(found, role)
    if len(catalog.paths) >= _MANY:
        catalog.paths.clear()
    catalog.paths[value, role] = found
    return found
