"""What a session has set: options as the server reads them, and texts that bring any link there."""

from __future__ import annotations

import pytest

from proxy.errors import ProxyError
from proxy.settings import (
    NOTHING_APPLIED,
    Applied,
    SessionSettings,
    parse_options,
    quote_literal,
    set_config_sql,
    without_snapshot,
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", []),
        ("-c work_mem=5MB", [("work_mem", "5MB")]),
        ("-cwork_mem=5MB", [("work_mem", "5MB")]),
        ("--work-mem=5MB", [("work_mem", "5MB")]),
        ("-c a=1 --b=2  -c\tc=3", [("a", "1"), ("b", "2"), ("c", "3")]),
        (r"-c search_path=a,\ b", [("search_path", "a, b")]),
        (r"-c a=\\", [("a", "\\")]),
        ("-c a=", [("a", "")]),
        ("-c a=b=c", [("a", "b=c")]),
        ("--Search-Path=x", [("search_path", "x")]),
        ("-e", [("datestyle", "euro")]),
        ("-eS 9 -fsm", [("datestyle", "euro"), ("work_mem", "9"), ("enable_seqscan", "false")]),
        ("-bEjT -n -v 2 -r x", []),
        ("-d 0", [("log_min_messages", "notice")]),
        ("-d3", [("log_min_messages", "debug3"), ("log_statement", "all"), ("debug_print_parse", "true")]),
        ("-e --", [("datestyle", "euro")]),
        ("-B 100", [("shared_buffers", "100")]),
        ("-tpl -te", [("log_planner_stats", "true"), ("log_executor_stats", "true")]),
    ],
)
def test_options(options: str, expected: list[tuple[str, str]]) -> None:
    assert parse_options(options) == expected


@pytest.mark.parametrize(
    "options",
    [
        "-x",
        "work_mem=5MB",
        "-c",
        "-c work_mem",
        "-- x",
        "-P",
        "-c =5",
        "-",
        "-ex",
        "-fx",
        "-ts",
        "-S",
        "-W 1",
    ],
)
def test_options_that_are_not_understood_are_not_dropped(options: str) -> None:
    with pytest.raises(ProxyError) as raised:
        parse_options(options)
    assert raised.value.sqlstate == "42601"


def test_literals_are_safe_whatever_the_settings() -> None:
    assert quote_literal("it's") == "'it''s'"
    assert quote_literal("a\\'b") == " E'a\\\\''b'"
    assert set_config_sql("search_path", "a, b") == "SELECT pg_catalog.set_config('search_path', 'a, b', false)"
    assert set_config_sql("x", "y", local=True).endswith("true)")


def test_what_was_set_last_is_applied_last() -> None:
    settings = SessionSettings()
    assert settings.applied == NOTHING_APPLIED
    settings.set_startup("timezone", "UTC")
    settings.set("role", "SET ROLE a")
    settings.set("work_mem", "SET work_mem = 1")
    settings.set("role", "SET ROLE b")
    assert [name for name, _ in settings.applied.statements] == ["timezone", "work_mem", "role"]
    (query,) = settings.applied.queries()
    assert query.startswith(b"SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; ")
    assert query.endswith(b"SET work_mem = 1; SET ROLE b")


def test_resets() -> None:
    settings = SessionSettings()
    settings.set_startup("timezone", "UTC")
    before = settings.applied
    settings.set("timezone", "SET timezone = 'Asia/Tokyo'")
    settings.set("role", "SET ROLE a")
    settings.reset("timezone")
    assert [name for name, _ in settings.applied.statements] == ["timezone", "role"]
    settings.set("work_mem", "SET work_mem = 1")
    settings.reset_all()
    assert [name for name, _ in settings.applied.statements] == ["timezone", "role"]
    settings.discard_all()
    assert settings.applied == before


def test_a_rollback_goes_back() -> None:
    settings = SessionSettings()
    settings.set("work_mem", "SET work_mem = 1")
    snapshot, applied = settings.snapshot(), settings.applied
    settings.set("work_mem", "SET work_mem = 2")
    settings.set("role", "SET ROLE a")
    settings.restore(snapshot)
    assert settings.applied == applied
    settings.set("work_mem", "SET work_mem = 3")
    assert snapshot == {"work_mem": "SET work_mem = 1"}


def test_what_settings_mean_for_a_link() -> None:
    assert Applied((("work_mem", "SET work_mem = 1"),)).resettable
    assert not Applied((("app.tenant", "SET app.tenant = 1"),)).resettable
    assert Applied((("role", "SET ROLE a"),)).names_role
    assert Applied((("session_authorization", "SET SESSION AUTHORIZATION a"),)).names_role
    assert not Applied((("work_mem", "SET work_mem = 1"),)).names_role


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("work_mem", "5MB", "SET \"work_mem\" TO '5MB'"),
        ("my.Own", "it's", "SET \"my\".\"Own\" TO 'it''s'"),
        ("my.x", "a\\b, 'c'), false", "SET \"my\".\"x\" TO  E'a\\\\b, ''c''), false'"),
        ("DateStyle", "German, DMY", "SET \"DateStyle\" TO 'German, DMY'"),
        ("search_path", '"$user", public', "SET \"search_path\" TO '$user', 'public'"),
        # What SET would write in another way than it was given.
        ("search_path", "a,b", None),
        ("search_path", "", None),
        ("search_path", "A", None),
        ("temp_tablespaces", '"Some"', None),
    ],
)
def test_settings_without_a_snapshot(name: str, value: str, expected: str | None) -> None:
    sql = set_config_sql(name, value)
    assert without_snapshot(f"{sql}; {sql}") == f"{expected or sql}; {expected or sql}"


def test_what_is_no_set_config_stays() -> None:
    local = set_config_sql("work_mem", "5MB", local=True)
    assert without_snapshot(f"{local}; RESET SESSION AUTHORIZATION") == f"{local}; RESET SESSION AUTHORIZATION"
