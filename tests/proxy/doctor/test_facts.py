"""What cannot be planted on the servers of a test: other versions, other clocks, replicas. From a shard's facts on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.config import ConfigError, load
from proxy.doctor.configuration import look_at_configuration, mistakes
from proxy.doctor.hosts import SIZES, judge
from proxy.doctor.kind import Severity
from proxy.doctor.look import Look, Options, psql_target
from proxy.doctor.servers import look_at_servers
from proxy.shards.hosts import HostAddress
from proxy_process import write_config

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.shards.control import ControlLinks

FACTS: dict[str, Any] = {
    "version": 18,
    "encoding": "UTF8",
    "database": "d",
    "max_prepared": 100,
    "max_connections": 200,
    "locale": "b C C C.UTF-8",
    "collation": [None, None],
    "offset_s": 0.0,
    "replicas": [],
    "settings": {"fsync": "on", "full_page_writes": "on"},
    "old": [],
}


def waits_for(names: str) -> dict[str, Any]:
    return {"settings": {"synchronous_standby_names": names}}


@pytest.fixture
def look(tmp_path: Path) -> Look:
    file = write_config(tmp_path / "c.yaml", {"d": ["postgres://p:secret@a/d", "postgres://p:secret@b/d"]})
    config = load(file)
    made = Look(config, config.cluster.databases["d"], cast("ControlLinks", None), Options(), lambda _text: None)
    made.up = [0, 1]
    made.facts = {shard: {**FACTS, "identity": f"{shard}/1"} for shard in (0, 1)}
    return made


@pytest.mark.parametrize(
    ("shard_1", "kinds"),
    [
        ({}, []),
        ({"version": 17}, ["version-untested", "versions-differ"]),
        ({"version": 13}, ["version-old", "versions-differ"]),
        ({"encoding": "LATIN1"}, ["encoding-not-utf8"]),
        ({"locale": "c en_US.utf8 en_US.utf8"}, ["locale-differs"]),
        ({"collation": [None, "153.1"]}, ["collation-versions-differ"]),
        ({"offset_s": 2.5}, ["clocks-apart"]),
        ({"offset_s": -400.0}, ["clocks-far-apart"]),
        ({"identity": "0/1"}, ["same-database"]),
        ({"max_prepared": 0}, ["prepared-off"]),
        ({"max_prepared": 10}, ["prepared-few"]),
        ({"max_connections": 20}, ["connections-few"]),
        ({"replicas": [["a", "async"]]}, ["replicas-asynchronous"]),
        ({"replicas": [["a", "async"], ["b", "quorum"]], **waits_for("ANY 1 (*)")}, []),
        ({"replicas": [["a", "async"]], **waits_for("b, a")}, ["standbys-absent"]),
        ({"replicas": [], **waits_for("*")}, ["standbys-absent"]),
        ({"replicas": [["a", "sync"], ["b", "potential"]], **waits_for("First 2(a, b)")}, ["standbys-absent"]),
        ({"replicas": [["a", "quorum"], ["b", "quorum"]], **waits_for("any 2 (a, b, c)")}, []),
        ({"replicas": [["2", "sync"]], **waits_for('"2", "3"')}, []),
        ({"replicas": [["a", None]], **waits_for("*")}, []),
        ({"settings": {"fsync": "off", "full_page_writes": "on"}}, ["fsync-off"]),
        ({"old": [[7, "app", 7200, "idle in transaction"]]}, ["transaction-old"]),
    ],
)
async def test_servers(look: Look, shard_1: dict[str, Any], kinds: list[str]) -> None:
    look.facts[1] |= shard_1
    await look_at_servers(look)
    assert sorted(finding.kind.name for finding in look.findings) == sorted(kinds)
    for finding in look.findings:
        assert finding.mend, finding
        assert "s1" in finding.shards, finding
        assert all("secret" not in command.text for command in finding.mend)


FIRST, SECOND = HostAddress("a", 5432), HostAddress("b", 5433)
PRIMARY: dict[str, Any] = {
    "standby": False,
    "version": "18.1",
    "system": "7",
    "timeline": 3,
    "follows": 0,
    "lsn": 5000,
    "paused": False,
    "sizes": dict.fromkeys(SIZES, 100),
    "synchronous_commit": "on",
    "set_for": "default",
    "role": "p",
    "database": "d",
    "synchronous_standby_names": "ANY 1 (*)",
}


@pytest.mark.parametrize(
    ("primary", "standby", "kinds"),
    [
        ({}, {}, []),
        ({"synchronous_standby_names": ""}, {"synchronous_standby_names": ""}, []),
        ({}, {"silent": "refused"}, ["host-unreachable"]),
        ({}, {"system": "8", "standby": False}, ["host-foreign"]),
        ({}, {"standby": False, "timeline": 2}, ["host-takes-writes"]),
        ({}, {"version": "18.0"}, ["host-version-differs"]),
        ({}, {"follows": 0}, ["host-not-following"]),
        ({}, {"follows": 2}, ["host-not-following"]),
        ({}, {"paused": True}, ["host-behind"]),
        ({}, {"lsn": 4999}, ["host-behind"]),
        ({}, {"sizes": dict.fromkeys(SIZES, 100) | {"max_prepared_transactions": 50}}, ["host-limits-lower"]),
        ({}, {"sizes": dict.fromkeys(SIZES, 50), "paused": True}, ["host-limits-lower"]),
        ({}, {"synchronous_standby_names": ""}, ["host-would-not-wait"]),
        ({"synchronous_commit": "local"}, {}, ["commits-wait-for-nobody"]),
        ({"synchronous_commit": "off", "set_for": "database user"}, {}, ["commits-wait-for-nobody"]),
        ({"silent": "refused"}, {"follows": 0}, ["host-unreachable"]),
    ],
)
def test_hosts(look: Look, primary: dict[str, Any], standby: dict[str, Any], kinds: list[str]) -> None:
    """On servers: test_hosts.py, and tests/faults/test_failover.py, where standbys are promoted."""
    look.facts.clear()  # the shard need not have answered when the hosts do
    said = {FIRST: PRIMARY | primary, SECOND: PRIMARY | {"standby": True, "follows": 3, "lsn": 6000} | standby}
    judge(look, 1, FIRST, said)
    assert [finding.kind.name for finding in look.findings] == kinds
    for finding in look.findings:
        assert finding.mend, finding
        assert finding.shards == ("s1",)
        assert all("secret" not in command.text for command in finding.mend)


def test_no_password_is_printed() -> None:
    assert psql_target("postgres://u:p@h:1/d?sslmode=require&password=x") == "postgres://u@h:1/d?sslmode=require"


def test_a_file_that_is_wrong_says_where_and_what_would_be_right(tmp_path: Path) -> None:
    file = write_config(tmp_path / "c.yaml", {"d": ["postgres://p@a/d"]}, workers="many")
    with pytest.raises(ConfigError) as caught:
        load(file)
    (finding,) = mistakes(caught.value.mistakes)
    assert (finding.kind.name, finding.kind.severity) == ("config-mistake", Severity.ERROR)
    assert f"{file}:" in str(finding)
    assert [command.on for command in finding.mend] == ["configuration"]
    assert load(write_config(file, {"d": ["postgres://p@a/d"]}, workers=2)).workers == 2


def test_the_configuration_alone(tmp_path: Path) -> None:
    config = load(write_config(tmp_path / "c.yaml", {"d": ["postgres://p@a/d"]}))
    assert look_at_configuration(config) == []
    open_to_all = replace(config, listen=replace(config.listen, host="0.0.0.0"))  # noqa: S104 - that is the point
    assert [one.kind.name for one in look_at_configuration(open_to_all)] == ["config-trust-open"]
    clear = replace(open_to_all, auth=replace(config.auth, method="password", users={"a": "b"}))
    assert [one.kind.name for one in look_at_configuration(clear)] == ["config-clear-passwords"]
    hasty = replace(config, limits=replace(config.limits, recovery_grace_s=20.0))
    assert [str(one) for one in look_at_configuration(hasty)] == [
        "limits.recovery.grace_s: 20 s, and a commit may take 35 s until it is decided"
    ]
