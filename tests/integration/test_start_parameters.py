"""What a client gives in its StartupMessage, beside one Postgres: what it has then, or why it does not get in."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from wire_client import ServerClosedError, WireClient

if TYPE_CHECKING:
    from conftest import Town

SHOWN = (
    "select current_user, session_user, current_setting('session_authorization'), current_setting('role'), "
    "current_setting('is_superuser'), current_setting('datestyle'), current_setting('work_mem'), "
    "current_setting('enable_seqscan'), current_setting('enable_mergejoin')"
)


@pytest.fixture
def alice(any_town: Town) -> str:
    """A role that exists everywhere, and postgres can become."""
    for dsn in (any_town.one, any_town.dsn):
        with psycopg.connect(dsn, autocommit=True) as client:
            client.execute(b"do $$ begin create role alice_of_start; exception when duplicate_object then end $$")
    return "alice_of_start"


def begun(dsn: str, startup: dict[str, str]) -> list[Any]:
    """How a session begins: what it is told and finds, and that again after RESET; or the fields of its error."""
    try:
        client = WireClient(dsn, **startup)
    except ServerClosedError as closed:
        (error,) = (entry[1] for entry in closed.trace if entry[0] == "error")
        return [{name: error.get(name) for name in "SCMDH"}]
    with closing(client):
        told = [client.parameters.get(name) for name in ("session_authorization", "is_superuser", "DateStyle")]
        found = client.rows(SHOWN)
        if "role" not in startup:  # a role is lost with it, which is one of the limits
            client.query("reset session authorization")
        client.query("reset all")
        return [told, found, client.rows(SHOWN)]


@pytest.mark.parametrize(
    "startup",
    [
        {"session_authorization": "{alice}"},
        {"session_authorization": "postgres"},
        {"session_authorization": "nobody_has_this"},
        {"session_authorization": ""},
        {"options": "-c session_authorization={alice}"},
        {"role": "{alice}", "session_authorization": "{alice}"},
        {"role": "{alice}"},
    ],
)
def test_session_authorization_is_looked_at_and_the_login_stays(
    any_town: Town, alice: str, startup: dict[str, str]
) -> None:
    given = {name: value.format(alice=alice) for name, value in startup.items()}
    assert begun(any_town.dsn, given) == begun(any_town.one, given)


@pytest.mark.parametrize(
    "options",
    [
        "-e",
        "-S 1000",
        "-S1000 -e",
        "-f s",
        "-fm -c work_mem=1MB",
        "-e --enable-seqscan=off",
        "bad",
        "-e bad",
        "-c",
        "-c x",
        "-cx",
        "--x",
        "-z",
        "-S",
        "-c work_mem=x",
    ],
)
def test_switches_of_the_server(any_town: Town, options: str) -> None:
    given = {"options": options}
    assert begun(any_town.dsn, given) == begun(any_town.one, given)


@pytest.mark.parametrize("name", ["plain", "caf\u00e9", "\udcff\udce9", "a\tb\x7f", "x" * 70, "\u00e9" * 40, " \\x "])
def test_the_name_of_the_application(any_town: Town, name: str) -> None:
    """As Postgres keeps it, whatever bytes it is made of."""
    found = []
    for dsn in (any_town.one, any_town.dsn):
        with closing(WireClient(dsn, application_name=name)) as client:
            found.append([client.parameters["application_name"], client.rows("show application_name")])
            client.query("set application_name = 'other'")
            client.query("reset application_name")
            found[-1].append(client.rows("select current_setting('application_name')"))
    assert found[0] == found[1]
