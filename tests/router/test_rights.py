"""Which schemas a role may use: as an owner, a member, a superuser, everybody."""

from __future__ import annotations

import pytest

from router.catalog import Catalog
from router.cluster import Database
from router.errors import Refused
from router.planner import Planner
from router.rights import EVERYBODY, UNKNOWN_ROLE, SchemaRights

RIGHTS = SchemaRights(
    {"root": True, "ann": False, "bob": False, "team": False, "all": False, "pg_read_all_data": False},
    {"bob": frozenset({"team"}), "team": frozenset({"ann", "bob"}), "all": frozenset({"pg_read_all_data"})},
    {"public": frozenset({EVERYBODY, "ann"}), "anns": frozenset({"ann"}), "revoked": frozenset()},
)


@pytest.mark.parametrize(
    ("role", "found"),
    [
        ("root", ("anns", "revoked", "nowhere", "public")),
        ("ann", ("anns", "nowhere", "public")),
        ("bob", ("anns", "nowhere", "public")),  # by way of the team
        ("all", ("anns", "revoked", "nowhere", "public")),
        ("pg_read_all_data", ("anns", "revoked", "nowhere", "public")),
        ("nobody", (UNKNOWN_ROLE,)),
    ],
)
def test_schemas_in_which_a_role_finds_names(role: str, found: tuple[str, ...]) -> None:
    assert RIGHTS.path(("anns", "revoked", "nowhere", "public"), role) == found


def test_nothing_but_settings_is_planned_for_an_unknown_role() -> None:
    planner = Planner(Database("d", ("a", "b"), 0), Catalog.empty())
    assert planner.plan("RESET ROLE", (UNKNOWN_ROLE,))
    for text in ("SELECT 1", "CREATE TABLE t (a int)"):
        with pytest.raises(Refused, match="current role"):
            planner.plan(text, (UNKNOWN_ROLE,))


@pytest.mark.parametrize(
    "text",
    [
        "GRANT USAGE ON SCHEMA s TO r",
        "REVOKE ALL ON SCHEMA s FROM PUBLIC",
        "GRANT a TO b",
        "ALTER ROLE a NOSUPERUSER",
        "ALTER ROLE a RENAME TO b",
        "DROP ROLE a",
        "ALTER DATABASE d OWNER TO a",
        "REASSIGN OWNED BY a TO b",
    ],
)
def test_other_proxies_hear_of_what_changes_rights(text: str) -> None:
    planner = Planner(Database("d", ("a", "b"), 1), Catalog.empty(Database("d", ("a", "b"), 1)))
    (statement,) = planner.plan(text)
    assert statement.plan.after == ((), ("CALL pgchorus.note_change()",))  # type: ignore[union-attr]
    assert statement.plan.catalog_changes  # type: ignore[union-attr]
