"""Configurations: what is read, and that every mistake is told with its line, key path and what would be right."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import config_values as values
from proxy.config import (
    FORM,
    Address,
    Config,
    ConfigError,
    Mistake,
    Section,
    Tables,
    dump,
    known_keys,
    load,
    load_tables,
    plain_tables,
)
from proxy.executor.request import Limits as MergeLimits
from proxy.limits import SECTIONS, Limits
from proxy.shards.control import ControlLimits
from proxy.shards.pool import PoolLimits
from proxy.twophase.coordinator import Limits as CommitLimits
from proxy.twophase.fence import FenceLimits
from proxy.twophase.recovery import RecoveryLimits
from proxy.wire.scram import Verifier
from router.cluster import Home, Reference, Sharded, TableName, Vouch

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "cluster: demo\nauth: {method: trust}\n"
DATABASE = "databases:\n  postgres:\n    shards: {s0: 'postgres://p@h:1/d', s1: 'postgres://p@h:2/d'}\n    home: s0\n"
GOOD = HEAD + DATABASE
VERIFIER = Verifier.of_password("secret", b"0123456789abcdef").format()


def with_rule(rule: str) -> str:
    return GOOD.replace("trust}", "trust, rules: {r: {" + rule + "}}}")


def read(directory: Path, text: str, environment: dict[str, str] | None = None) -> Config:
    file = directory / "pgchorus.yaml"
    file.write_text(text)
    return load(file, environment or {})


def mistakes(directory: Path, text: str, environment: dict[str, str] | None = None) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigError) as caught:
        read(directory, text, environment)
    for mistake in caught.value.mistakes:
        assert str(mistake).startswith(f"{directory / 'pgchorus.yaml'}:{mistake.line}: ")
    return caught.value.mistakes


def only(directory: Path, text: str, environment: dict[str, str] | None = None) -> Mistake:
    found = mistakes(directory, text, environment)
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def test_the_form_of_the_documentation(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """\
cluster: demo                 # part of every transaction id; never change it
listen: {host: 127.0.0.1, port: 6432}
metrics: {host: 127.0.0.1, port: 9632}
workers: 1
auth: {method: scram-sha-256, users: {app: "env:APP_PASSWORD"}}
databases:
  postgres:
    shards:
      s0: postgres://postgres@127.0.0.1:6201/postgres
      s1: postgres://postgres@127.0.0.1:6202/postgres
    home: s1
    tables:
      pgbench_accounts: {key: aid}
      public.countries: reference
      sales."Orders": {key: '"Id"'}
      Settings: home
    functions: {discount: pure, sales.next: local}
    slots: 64
limits: {pool: {size: 7}, message: {max_bytes: 1_000_000}, fence: {settle_s: 0.5}}
""",
        {"APP_PASSWORD": "env:not followed twice"},
    )
    logical = config.cluster.databases["postgres"]
    assert config.cluster.name == "demo"
    assert (config.listen, config.metrics) == (Address("127.0.0.1", 6432), Address("127.0.0.1", 9632))
    assert config.auth.users == config.auth.passwords == {"app": "env:not followed twice"}
    assert logical.shards == ("s0", "s1")
    assert logical.home == 1
    assert logical.slots == 64
    assert logical.placements == {
        TableName("public", "pgbench_accounts"): Sharded("aid"),
        TableName("public", "countries"): Reference(),
        TableName("sales", "Orders"): Sharded("Id"),
        TableName("public", "settings"): Home(),
    }
    assert logical.functions == {"public.discount": Vouch.PURE, "sales.next": Vouch.LOCAL}
    assert config.databases["postgres"].logical is logical
    assert config.databases["postgres"].dsns[1] == "postgres://postgres@127.0.0.1:6202/postgres"
    assert (config.limits.pool_size, config.limits.message_max_bytes) == (7, 1_000_000)
    assert config.limits.fence_settle_s == 0.5
    assert config.limits.clients_max == Limits().clients_max


def test_passwords_as_json_writes_them_and_those_that_nobody_could_send(tmp_path: Path) -> None:
    auth = "auth: {method: scram-sha-256, users: {app: %s}}"
    text = GOOD.replace("auth: {method: trust}", auth)
    assert auth in text
    assert read(tmp_path, text % r'"\ud83d\ude00\u00e9"').auth.users == {"app": "\N{GRINNING FACE}\u00e9"}
    for word, environment in ((r'"\ud83d"', {}), ('"env:PW"', {"PW": "p\udcff\udce9"}), (r'"a\0b"', {})):
        mistake = only(tmp_path, text % word, environment)
        assert (mistake.path, mistake.wrong) == (
            "auth.users.app", "has a NUL in it" if "0b" in word else "is not UTF-8"
        )  # fmt: skip


def test_a_secret_is_in_an_ordinary_file_of_its_size(tmp_path: Path) -> None:
    text = GOOD.replace("auth: {method: trust}", 'auth: {method: scram-sha-256, users: {app: "file:%s"}}')
    (tmp_path / "secret").write_bytes(b"p\xc3\xa4ss\r\n")
    assert read(tmp_path, text % "secret").auth.users == {"app": "p\u00e4ss"}
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"p" * 65_537)
    (tmp_path / "latin").write_bytes(b"p\xe4ss")
    for name, wrong in (
        ("directory", "cannot be read: Is a directory"),
        ("pipe", "is no ordinary file"),
        ("/dev/zero", "is no ordinary file"),
        ("long", "has more than 65536 bytes"),
        ("latin", "cannot be read: not UTF-8"),
        ("a\\0b", "has a NUL in it"),
        ("missing", "cannot be read: No such file or directory"),
    ):
        mistake = only(tmp_path, text % name)
        assert (mistake.path, mistake.right) == ("auth.users.app", "give file:PATH of a readable file")
        assert mistake.wrong.endswith(wrong)


def test_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD + "limits:\nlisten:\n")
    assert (config.listen, config.metrics, config.workers) == (Address("127.0.0.1", 6432), None, 1)
    assert config.limits == Limits()
    assert read(tmp_path, GOOD + "listen: {port: 7}").listen == Address("127.0.0.1", 7)
    assert read(tmp_path, GOOD + "workers: auto").workers == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "line", "path", "wrong", "right"),
    [
        (f"{GOOD}listn: {{}}\n", 7, "listn", "not a known key", "did you mean listen?"),
        (f"{GOOD}xyz: 1\n", 7, "xyz", "not a known key", "known keys here: cluster, listen, metrics"),
        (f"{GOOD}limits:\n  pool:\n    sizes: 1\n", 9, "limits.pool.sizes", "not a known key", "did you mean size?"),
        (f"{GOOD}limits: {{pool: {{size: 0}}}}\n", 7, "limits.pool.size", "too small", "whole number of at least 1"),
        (f"{GOOD}limits: {{pool: {{size: 1.5}}}}\n", 7, "limits.pool.size", "'1.5' is not a whole number", "give"),
        (f"{GOOD}limits: {{pool: {{size: many}}}}\n", 7, "limits.pool.size", "'many' is not", "give a whole number"),
        (f"{GOOD}limits: {{fence: {{bind_s: -1}}}}\n", 7, "limits.fence.bind_s", "'-1' is not a number", "at least 0"),
        (f"{GOOD}limits: {{fence: {{bind_s: inf}}}}\n", 7, "limits.fence.bind_s", "'inf' is not a number", "give"),
        (f"{GOOD}limits: 3\n", 7, "limits", "is a single value", "key: value"),
        (f"{GOOD}listen: [1]\n", 7, "listen", "is a list", "key: value"),
        (f"{GOOD}listen: {{port: 0}}\n", 7, "listen.port", "0 is too small", "at least 1"),
        (f"{GOOD}listen: {{port: 65536}}\n", 7, "listen.port", "not a TCP port", "up to 65535"),
        (f"{GOOD}listen: {{port: 64:32}}\n", 7, "listen.port", "'64:32' is not a whole number", "give"),
        (f"{GOOD}listen: {{host: }}\n", 7, "listen.host", "is empty", "give a text"),
        (f"{GOOD}metrics: {{host: h}}\n", 7, "metrics.port", "is missing", "no default"),
        (f"{GOOD}workers: 65\n", 7, "workers", "65 are too many processes", "up to 64, or auto"),
        (f"{GOOD}cluster: other\n", 7, "cluster", "is there twice (first in line 1)", "keep one"),
        (f"{GOOD}'1': {{[1]: 2}}\n", 7, "1", "not a known key", "known keys"),
        (GOOD.replace("demo", "'a:b'"), 1, "cluster", "'a:b' is not a name", "transaction id"),
        (GOOD.replace("cluster: demo\n", ""), 1, "cluster", "is missing", "conf/reference.yaml"),
        (GOOD.replace("trust", "ident"), 2, "auth.method", "ident is not possible", "trust or reject"),
        (GOOD.replace("trust", "cert"), 2, "auth.method", "needs certificates of clients", "tls.client_ca"),
        (
            GOOD.replace("trust}", "md5, shards: trust, users: {a: '" + VERIFIER + "'}}"),
            2,
            "auth.method",
            "SCRAM",
            "use",
        ),
        (with_rule("method: trust, connection: tls"), 2, "auth.rules.r.connection", "can never be", "give tls"),
        (with_rule("method: trust, networks: 10.0.0.1/8"), 2, "auth.rules.r.networks", "has host bits", "10.0.0.0/8"),
        (
            with_rule("method: trust, networks: '::ffff:10.0.0.0/104'"),
            2,
            "auth.rules.r.networks",
            "fits nobody",
            "IPv4",
        ),
        (with_rule("method: trust, networks: 'fe80::1%eth0/128'"), 2, "auth.rules.r.networks", "fits nobody", "scopes"),
        (with_rule("method: reject, users: '+staff'"), 2, "auth.rules.r.users", "+staff is no name", "groups (+)"),
        (with_rule("method: reject, users: '/^al.*$'"), 2, "auth.rules.r.users", "is no name", "patterns (/)"),
        (with_rule("method: reject, users: '@file'"), 2, "auth.rules.r.users", "@file is no name", "files (@)"),
        (with_rule("method: reject, users: '\"Alice\"'"), 2, "auth.rules.r.users", "is no name", "quotes"),
        (with_rule("method: reject, users: " + "r" * 64), 2, "auth.rules.r.users", "longer than 63", "has cut it"),
        (
            with_rule("method: reject, databases: sameuser"),
            2,
            "auth.rules.r.databases",
            "sameuser is no database",
            "one",
        ),
        (
            with_rule("method: reject, databases: 'postgres, shpo'"),
            2,
            "auth.rules.r.databases",
            "shpo is no database",
            "postgres",
        ),
        (
            GOOD.replace("trust}", "trust, users: {a: b}, rules: {r: {method: md5, users: 'a, c'}}}"),
            2,
            "auth.rules.r.users",
            "c has no password",
            "give one",
        ),
        (GOOD.replace("trust}", "trust, users: {a: null}}"), 2, "auth.users.a", "is null", "in quotes"),
        (GOOD.replace("trust}", "trust, users: {a: ~}}"), 2, "auth.users.a", "is null", "in quotes"),
        (GOOD.replace("trust}", f"trust, users: {{a: md5{'0' * 32}}}}}"), 2, "auth.users.a", "for md5", "the password"),
        (with_rule("method: trust, users: 'a,,b'"), 2, "auth.rules.r.users", "empty name", "commas"),
        (with_rule("method: md5"), 2, "auth.users", "nobody could log in", "method: trust"),
        (GOOD.replace("trust", "scram-sha-256"), 2, "auth.users", "nobody could log in", "method: trust"),
        (GOOD.replace("method: trust", "method: "), 2, "auth.method", "nothing is not possible", "trust"),
        (GOOD.replace("home: s0", "home: s2"), 6, "databases.postgres.home", "s2 is no shard", "s0, s1"),
        (GOOD.replace("h:2", "h:1"), 5, "databases.postgres.shards.s1", "same database as s0", "its own"),
        (GOOD.replace("s1:", "s0:"), 5, "databases.postgres.shards.s0", "is there twice", "keep one"),
        (GOOD.replace("s1:", "'s 1':"), 5, "databases.postgres.shards.s 1", "is not a name", "transaction id"),
        (f"{HEAD}databases: {{}}\n", 3, "databases", "is empty", "name at least 1"),
        (f"{HEAD}databases: {{d: }}\n", 3, "databases.d", "is empty", "key: value"),
        (f"{GOOD}    slots: 1000\n", 7, "databases.postgres.slots", "1000 slots are not possible", "power of two"),
        (f"{GOOD}    slots: 1\n", 7, "databases.postgres.slots", "1 slots for 2 shards", "more slots"),
        (f"{GOOD}    functions: {{f: safe}}\n", 7, "databases.postgres.functions.f", "safe is not", "pure or home"),
        (
            f"{GOOD}    functions: {{f(int): pure}}\n",
            7,
            "databases.postgres.functions.f(int)",
            "not a function",
            "without",
        ),
        (f"{GOOD}    tables: {{t: refernce}}\n", 7, "databases.postgres.tables.t", "refernce is not", "{key: COLUMN}"),
        (f"{GOOD}    tables: {{t: {{}}}}\n", 7, "databases.postgres.tables.t.key", "is missing", "no default"),
        (f"{GOOD}    tables: {{t: {{key: a b}}}}\n", 7, "databases.postgres.tables.t.key", "not a column", "as in SQL"),
        (f"{GOOD}    tables: {{t: home, public.T: home}}\n", 7, "databases.postgres.tables.public.T", "second", "keep"),
        (
            f"{GOOD}    tables: {{a.b.c: home}}\n",
            7,
            "databases.postgres.tables.a.b.c",
            "not a table's name",
            "as in SQL",
        ),
        (
            f"{GOOD}    tables: {{pg_catalog.t: home}}\n",
            7,
            "databases.postgres.tables.pg_catalog.t",
            "not yours",
            "own",
        ),
        (f"{GOOD}    tables: {{pgchorus.t: home}}\n", 7, "databases.postgres.tables.pgchorus.t", "not yours", "own"),
        (f"{GOOD}    tables: {{{'x' * 64}: home}}\n", 7, f"databases.postgres.tables.{'x' * 64}", "longer", "stored"),
        (f"{GOOD}    tables: {{[a]: home}}\n", 7, "databases.postgres.tables", "no plain text", "name: value"),
        (f"{GOOD}    tables: &t {{t: *t}}\n", 7, "databases.postgres.tables.t.t", "not a known key", "known keys"),
        ("cluster: [\nb: }", 2, "", "expected", "valid YAML"),
        ("- a\n", 1, "", "is a list", "key: value"),
        ("a: \x00", 1, "", "special characters are not allowed", "valid YAML"),
    ],
)
def test_a_mistake_is_told_precisely(  # noqa: PLR0917, PLR0913 - as many as a mistake has parts
    tmp_path: Path, text: str, line: int, path: str, wrong: str, right: str
) -> None:
    found = mistakes(tmp_path, text)
    told = [(mistake.line, mistake.path) for mistake in found]
    assert (line, path) in told, told
    mistake = found[told.index((line, path))]
    assert wrong in mistake.wrong
    assert right in mistake.right


def test_all_mistakes_are_told_in_the_order_of_their_lines(tmp_path: Path) -> None:
    found = mistakes(tmp_path, "databases: 3\nworkers: 0\nauth: {method: x}\nlimits: {y: 1}\n")
    assert [(mistake.line, mistake.path) for mistake in found] == [
        (1, "databases"),
        (1, "cluster"),
        (2, "workers"),
        (3, "auth.method"),
        (4, "limits.y"),
    ]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing.yaml:1: cannot be read: .*No such file"):
        load(tmp_path / "nothing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"cluster: \xff")
    with pytest.raises(ConfigError, match="cannot be read: 'utf-8'"):
        load(tmp_path / "bytes.yaml")


# Secrets


def test_secrets_from_the_environment_and_from_files(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from a file \n")
    text = (
        GOOD.replace("{method: trust}", "{method: trust, users: {a: 'env:A', b: 'file:password', c: plain, 7: 0123}}")
    ).replace("'postgres://p@h:1/d'", "env:DSN")
    config = read(tmp_path, text, {"A": "from the environment", "DSN": "postgres://u:pw@there/x"})
    assert config.auth.users == {
        "a": "from the environment",
        "b": "from a file ",
        "c": "plain",
        "7": "0123",
    }
    assert config.databases["postgres"].dsns[0] == "postgres://u:pw@there/x"


def test_secrets_that_are_not_there(tmp_path: Path) -> None:
    text = GOOD.replace("{method: trust}", "{method: trust, users: {a: 'env:A', b: 'file:b', c: ''}}")
    found = mistakes(tmp_path, text)
    assert [mistake.path for mistake in found] == ["auth.users.a", "auth.users.b", "auth.users.c"]
    assert found[0].wrong == "the environment variable A is not set"
    assert found[1].wrong == f"the file {tmp_path / 'b'} cannot be read: No such file or directory"
    assert found[2].wrong == "is empty"


@pytest.mark.parametrize(
    "dsn",
    [
        "mysql://u:hush-hush@h/d",
        "host=h password=hush-hush",
        "postgres://u:hush-hush@h:port/d",
        "postgres://u:hush-hush@/d",
        "postgres://u:hush-hush@[::1/d",
        "postgres://u:hush-hush@h:99999/d",
    ],
)
def test_no_message_shows_a_secret(tmp_path: Path, dsn: str) -> None:
    mistake = only(tmp_path, GOOD.replace("postgres://p@h:1/d", dsn))
    assert mistake.path == "databases.postgres.shards.s0"
    assert "hush" not in str(mistake)
    assert "postgres://ROLE:PASSWORD@HOST" in mistake.right


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    text = GOOD.replace("trust", "trust, users: {a: hush-hush}").replace("p@h", "p:hush-hush@h")
    config = read(tmp_path, text)
    assert config.auth.users == {"a": "hush-hush"}
    assert "hush" not in repr(config)


# Logging in to the shards


def test_a_verifier_cannot_log_in_to_a_shard(tmp_path: Path) -> None:
    text = GOOD.replace("{method: trust}", f"{{method: scram-sha-256, users: {{app: '{VERIFIER}', b: pw}}}}")
    mistake = only(tmp_path, text)
    assert mistake.path == "auth.users.app"
    assert "cannot log in to a shard" in mistake.wrong
    assert "auth.shards: trust" in mistake.right
    config = read(tmp_path, text.replace("}}", "}, shards: trust}"))
    assert config.auth.users == {"app": VERIFIER, "b": "pw"}
    assert config.auth.passwords == {}


def test_a_broken_verifier(tmp_path: Path) -> None:
    text = GOOD.replace("{method: trust}", "{method: trust, users: {app: 'SCRAM-SHA-256$4096:x$y:z'}}")
    mistake = only(tmp_path, text)
    assert mistake.path == "auth.users.app"
    assert mistake.wrong.startswith("looks like a SCRAM verifier, but")


# Values


@pytest.mark.parametrize(
    ("dsn", "target"),
    [
        ("postgres://u:p@A.b:77/d", ((("a.b", 77),), "d")),
        ("postgresql://u@h1:1,h2/d?target_session_attrs=primary", ((("h1", 1), ("h2", 5432)), "d")),
        ("postgres://u@[::1]:7/d", ((("[::1]", 7),), "d")),
        ("postgres://u@[::1]/", ((("[::1]", 5432),), "u")),
        ("postgres:///d?host=h&port=8&user=x", ((("h", 8),), "d")),
        ("postgres://x@h", ((("h", 5432),), "x")),
    ],
)
def test_where_a_dsn_leads(dsn: str, target: object) -> None:
    assert values.dsn(dsn) == dsn
    assert values.dsn_target(dsn) == target


def test_where_a_databases_sessions_read(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD).databases["postgres"].read_from == "primary"
    text = GOOD.replace("home: s0", "home: s0\n    read_from: prefer_replica")
    assert read(tmp_path, text).databases["postgres"].read_from == "prefer_replica"
    mistake = only(tmp_path, text.replace("prefer_replica", "anywhere"))
    assert mistake.path == "databases.postgres.read_from"


def test_a_shard_is_a_primary_among_its_hosts(tmp_path: Path) -> None:
    several = GOOD.replace("postgres://p@h:1/d", "postgres://p@h:1,i:2/d?target_session_attrs=standby")
    mistake = only(tmp_path, several)
    assert mistake.path == "databases.postgres.shards.s0"
    assert (mistake.wrong, mistake.right) == (
        "asks for standby servers",
        "a shard is its primary: write target_session_attrs=read-write",
    )


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=15))
def test_any_name_survives_quoting(name: str) -> None:
    table = TableName("public", name)
    assert values.table_name(values.quoted_name(table)) == table
    other = TableName(f"s{name}", name)
    assert values.table_name(values.quoted_name(other)) == other
    assert values.identifier(values.quoted(name)) == name


def test_tables_of_their_own_file_there_and_back(tmp_path: Path) -> None:
    tables = Tables(
        {
            TableName("public", "a"): Sharded("Key"),
            TableName("S", "b c"): Reference(),
            TableName("public", 'd"'): Home(),
        },
        {"public.f": Vouch.HOME},
        128,
    )
    file = tmp_path / "tables.yaml"
    file.write_text(dump(plain_tables(tables)))
    assert load_tables(file) == tables


def test_a_tables_file_has_tables_only(tmp_path: Path) -> None:
    file = tmp_path / "tables.yaml"
    file.write_text("tables: {a: reference}\ncluster: x\n")
    with pytest.raises(ConfigError, match=r"tables.yaml:2: cluster: is not a known key"):
        load_tables(file)
    file.write_text("functions: {}\n")
    with pytest.raises(ConfigError, match="tables: is missing"):
        load_tables(file)


# Limits


@pytest.mark.parametrize(
    ("section", "room"),
    [
        ("pool", PoolLimits),
        ("control", ControlLimits),
        ("merge", MergeLimits),
        ("commit", CommitLimits),
        ("recovery", RecoveryLimits),
        ("fence", FenceLimits),
    ],
)
def test_limits_are_those_of_the_rooms_that_keep_them(section: str, room: type[Any]) -> None:
    group = Limits().group(section)
    group.pop("retention_s", None)  # of the commits, kept by recovery: read from there
    kept = {item.name for item in fields(room)} - {"retention_s"}
    assert set(group) == kept
    made = room(**group)
    assert made == room(), "a default here differs from the room's own"


def test_every_limit_has_a_section_a_reason_and_keys_that_are_known() -> None:
    for item in fields(Limits):
        assert any(item.name.startswith(f"{section}_") for section in SECTIONS), item.name
        assert item.metadata["doc"]
        assert item.default >= item.metadata["minimum"]
    limits = FORM.keys["limits"].form
    assert isinstance(limits, Section)
    assert len(list(known_keys(limits))) == len(SECTIONS) + len(fields(Limits))


def test_fences_leave_a_control_link_for_finishing_commits(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        HEAD + "databases: {a: {home: s0, shards: {s0: postgres://h/x}}}\nlimits: {fence: {concurrent: 4}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert [mistake.path for mistake in caught.value.mistakes] == ["limits.fence.concurrent"]
    file.write_text(file.read_text().replace("4}", "3}"))
    assert load(file).limits.fence_concurrent == 3
