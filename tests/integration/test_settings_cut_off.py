"""SET and its like, while the client leaves or cancels: what has been set is the session's, and nobody else's."""

from __future__ import annotations

import random
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from proxy.wire.frontend import Query, Terminate
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Town

    from wire_client import WireClient

    Connect = Callable[..., WireClient]

# A statement, what tells whether it has been done, and what that is if it has not.
SETTINGS = {
    "set role pg_monitor": ("current_user", "postgres"),
    "set session authorization pg_monitor": ("session_user", "postgres"),
    "select set_config('role', 'pg_monitor', false)": ("current_user", "postgres"),
    "set session characteristics as transaction read only": ("current_setting('default_transaction_read_only')", "off"),
    "set default_transaction_isolation = 'serializable'": (
        "current_setting('transaction_isolation')",
        "read committed",
    ),
    "set idle_in_transaction_session_timeout = '70s'": ("current_setting('idle_in_transaction_session_timeout')", "0"),
    "select set_config('transaction_timeout', '70s', false)": ("current_setting('transaction_timeout')", "0"),
    "set work_mem = '7MB'": ("current_setting('work_mem')", "4MB"),
}
BY_FUNCTIONS = {
    "select takes_role()": ("current_user", "postgres"),
    "select takes_memory()": ("current_setting('work_mem')", "4MB"),
    "do $$ begin set work_mem = '7MB'; end $$": ("current_setting('work_mem')", "4MB"),
}
MADE = "create or replace function {} returns int language plpgsql as $$ begin {}; return 1; end $$"


def has_come_home(town: Town) -> bool:
    """Whether the only link of home was last asked for such a thing, or what follows it."""
    return bool(
        town.on_shard(
            0,
            "select 1 from pg_stat_activity where state = 'idle' and datname = current_database()"
            " and query ~* 'role|session|isolation|timeout|work_mem|discard|reset'",
        )
    )


@pytest.mark.parametrize("text", SETTINGS)
@pytest.mark.parametrize("way", ["reset", "close", "terminate"])
def test_who_leaves_hands_nothing_on(narrow_town: Town, connect: Connect, text: str, way: str) -> None:
    shown, usual = SETTINGS[text]
    for key in narrow_town.spread:
        connect(narrow_town.dsn).query(f"insert into notes values ({key}, 'x')")
    for _ in range(3):
        leaver = connect(narrow_town.dsn)
        leaver.send(Query(text.encode()), *([Terminate()] if way == "terminate" else []))
        if way == "reset":
            leaver.vanish()
        else:
            leaver.close()
        eventually(partial(has_come_home, narrow_town))
        client = connect(narrow_town.dsn)
        assert client.rows(f"select {shown}") == [(usual,)]
        assert client.rows(f"select distinct {shown} from notes") == [(usual,)]
        client.close()


@pytest.mark.parametrize("text", [*SETTINGS, *BY_FUNCTIONS])
def test_a_cancel_behind_it_makes_no_error_of_it(any_town: Town, connect: Connect, text: str) -> None:
    """Whatever the moment: an error says that nothing was set, and an answer that it was."""
    shown, usual = {**SETTINGS, **BY_FUNCTIONS}[text]
    client = connect(any_town.dsn)
    client.query(MADE.format("takes_role()", "set role pg_monitor"))
    client.query(MADE.format("takes_memory()", "set work_mem = '7MB'"))
    chance = random.Random(text)  # the moments are the machine's all the same
    for _ in range(12):
        cancels = threading.Timer(chance.random() * 0.004, client.cancel)
        cancels.start()
        trace = client.query(text)
        cancels.join()
        failed = [entry[1]["C"] for entry in trace if entry[0] == "error"]
        assert failed in ([], ["57014"], ["0A000"]), trace  # over several shards what DO sets is refused
        assert (client.rows(f"select {shown}") == [(usual,)]) == bool(failed)
        client.query("discard all")
    client.query("drop function takes_role(), takes_memory()")
