"""Which schemas a role may use, and so finds names in: Postgres passes over the others in a search_path.

Pure. Made of what home says of schemas and roles. Decides as ``has_schema_privilege(role, schema, 'USAGE')`` does;
leaves to the session which role acts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERYBODY: Final = ""  # as a grantee
#: The search_path of a session whose role nobody knows: nothing is planned by it.
UNKNOWN_ROLE: Final = "pgchorus: unknown role"
# Predefined roles whose members may use every schema.
_USE_ALL: Final = frozenset({"pg_read_all_data", "pg_write_all_data"})


@dataclass(frozen=True, slots=True)
class SchemaRights:
    """Who may use what, by names.

    ``roles``: all there are, and whether they are superusers; ``inherits``: the roles whose privileges a role has
    directly; ``usage``: to whom USAGE is granted. A schema that is not among these is left to Postgres.
    """

    roles: Mapping[str, bool]
    inherits: Mapping[str, frozenset[str]]
    usage: Mapping[str, frozenset[str]]
    _closed: dict[str, frozenset[str]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def path(self, schemas: tuple[str, ...], role: str) -> tuple[str, ...]:
        """Return those of a search_path in which ``role`` finds names."""
        if role not in self.roles:
            return (UNKNOWN_ROLE,)
        return tuple(schema for schema in schemas if self.may_use(role, schema))

    def may_use(self, role: str, schema: str) -> bool:
        """Whether a role has USAGE. An owner has it like others: by an entry, which can be revoked."""
        granted = self.usage.get(schema)
        if granted is None or self.roles.get(role, False) or EVERYBODY in granted:
            return True
        held = self._held(role)
        return not held.isdisjoint(granted) or not held.isdisjoint(_USE_ALL)

    def _held(self, role: str) -> frozenset[str]:
        """Return the roles whose privileges a role has, itself among them."""
        known = self._closed.get(role)
        if known is None:
            found, pending = {role}, [role]
            while pending:
                new = self.inherits.get(pending.pop(), frozenset()) - found
                found |= new
                pending += new
            known = self._closed[role] = frozenset(found)
        return known
