"""Findings about the hosts of a shard, planted on a primary and its standby, mended by their commands, found no more.

Five are here, which need no proxy; the others, about failovers and logins, are in tests/faults/test_failover.py.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from databases import create_database
from proxy import commands
from proxy.config import load
from proxy.demo.binaries import Installation, find_installation, runs_as
from proxy.demo.embedded import HOST, SUPERUSER
from proxy.doctor.examine import examine
from proxy.doctor.finding import FILE, HAND, SHELL, Command
from proxy.doctor.kinds import KINDS
from proxy.doctor.look import Options, literal
from proxy_process import write_config
from standbys import ReplicatedShard, asked
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from proxy.doctor.finding import Finding
    from tests.conftest import MakeDatabases

# The tests' servers have no fsync, and nobody waits for the standby; two databases number their types otherwise.
ALWAYS = {"fsync-off", "replicas-asynchronous", "type-oids-differ"}


class Ward:
    """A shard of one host, a shard of two, and a database by a configuration that can be changed."""

    def __init__(self, file: Path, plain: str, foreign: str, shard: ReplicatedShard) -> None:
        self.file = file
        self.plain = plain
        self.foreign = foreign.split("@")[1].split("/", maxsplit=1)[0]
        self.name = plain.rpartition("/")[2]
        self.shard = shard
        self.use(plain, shard.dsn(self.name))
        asyncio.run(commands.init(load(file)))
        self.always = set(self.all_found())
        assert self.always <= ALWAYS, self.always

    def use(self, *dsns: str) -> None:
        write_config(self.file, {self.name: dsns})

    def all_found(self) -> dict[str, Finding]:
        options = Options(rows=False, config=str(self.file))
        done = asyncio.run(examine(load(self.file), options, lambda _text: None))
        return {one.kind.name: one for one in done.findings}

    def found(self) -> dict[str, Finding]:
        return {name: one for name, one in self.all_found().items() if name not in self.always}

    def until_found(self, *names: str) -> dict[str, Finding]:
        """Wait until these and no others are found."""
        found: dict[str, Finding] = {}

        def are_found() -> bool:
            found.clear()
            found.update(self.found())
            return set(found) == set(names)

        try:
            eventually(are_found)
        except AssertionError:
            pytest.fail(f"not {names}, but " + "\n".join(f"{name}: {one}" for name, one in found.items()))
        return found

    @contextmanager
    def with_shards(self, *dsns: str) -> Iterator[None]:
        """Have the configuration name other shards for a while."""
        before = self.file.read_text()
        self.use(*dsns)
        try:
            yield
        finally:
            self.file.write_text(before)

    def on_primary(self, *statements: str) -> None:
        with psycopg.connect(self.shard.primary.dsn(self.name), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def mend(self, finding: Finding, by_person: Callable[[Command], object] | None = None) -> None:
        """Run every step as it stands; what is for a person is done by ``by_person``."""
        path = os.path.dirname(find_installation().program("psql")) + os.pathsep + os.environ["PATH"]  # noqa: PTH120
        for command in finding.mend:
            if command.on == "s1":
                self.on_primary(command.text)
            elif command.on == SHELL:
                done = subprocess.run(
                    ["bash", "-c", command.text], env={**os.environ, "PATH": path}, capture_output=True, check=False
                )
                assert done.returncode == 0, f"{command.text}\n{done.stderr.decode()}"
            else:
                assert command.on in {HAND, FILE}
                assert by_person is not None, command
                by_person(command)


@pytest.fixture(scope="module")
def ward(make_module_databases: MakeDatabases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    plain, foreign = make_module_databases(2, "hosts")
    directory = tmp_path_factory.mktemp("hosts")
    shard = ReplicatedShard(directory)
    try:
        create_database(shard.primary, plain.rpartition("/")[2])
        eventually(shard.caught_up, "the standby does not replay")
        yield Ward(directory / "pgchorus.yaml", plain, foreign, shard)
    finally:
        shard.close()


@pytest.mark.parametrize("name", ["s1", "s0"])
def test_a_host_of_another_cluster(ward: Ward, name: str) -> None:
    """With it the shard has no primary: nobody can tell which of two clusters is the right one."""
    right = ward.shard.dsn(ward.name)
    beside = [ward.plain] if name == "s1" else []
    primary, standby = (f"{HOST}:{server.port}" for server in (ward.shard.primary, ward.shard.standby))

    def leave_it_out(command: Command) -> None:
        assert command.on == FILE
        assert command.text == f"databases.{ward.name}.shards.{name}: a DSN with the hosts of one cluster only"
        ward.use(*beside, right)

    with ward.with_shards(*beside, right.replace("@", f"@{ward.foreign},")):
        found = ward.until_found("shard-unreachable", "host-foreign")
        assert f": {ward.foreign} (takes writes)" in str(found["host-foreign"])
        assert f": {primary} (takes writes), {standby} (a standby)" in str(found["host-foreign"])
        ward.mend(found["host-foreign"], leave_it_out)
        # Half of a database's shards, as one, has findings of its own.
        assert not ward.found().keys() & (found.keys() if name == "s0" else KINDS.keys())


def test_a_standby_that_follows_nobody(ward: Ward) -> None:
    standby = ward.shard.standby
    ((conninfo,),) = asked(standby, "SHOW primary_conninfo")
    with_conninfo = f"ALTER SYSTEM SET primary_conninfo = {literal(conninfo)}"

    def lead_to(command: Command) -> None:
        assert command.text.startswith(f"primary_conninfo on {HOST}:{standby.port} to lead to {HOST}:")
        ward.shard.configure(standby, with_conninfo)

    ward.shard.configure(standby, "ALTER SYSTEM SET primary_conninfo = ''")
    try:
        finding = ward.until_found("host-not-following")["host-not-following"]
        assert finding.thing == f"{HOST}:{standby.port}"
        ward.mend(finding, lead_to)
        ward.until_found()
    finally:
        ward.shard.configure(standby, with_conninfo)


def test_a_standby_with_less_than_its_primary(ward: Ward) -> None:
    """It has paused by then, and to resume would end it: that is not among the commands."""
    primary, standby = ward.shard.primary, ward.shard.standby

    def restart(command: Command) -> None:
        assert command.text == f"restart the server at {HOST}:{standby.port}"
        standby.restart()

    ward.on_primary("ALTER SYSTEM SET max_worker_processes = 11", "ALTER SYSTEM SET max_locks_per_transaction = 70")
    primary.restart()
    try:
        eventually(lambda: asked(standby, "SELECT pg_is_wal_replay_paused()") == [(True,)], "it goes on with less")
        finding = ward.until_found("host-limits-lower")["host-limits-lower"]
        assert "max_locks_per_transaction = 64, the primary 70, max_worker_processes = 8, the primary" in str(finding)
        ward.mend(finding, restart)
        ward.until_found()
        assert asked(standby, "SHOW max_worker_processes") == [("11",)]
    except BaseException:
        # The other tests need a standby, which does not even start with less.
        standby.settings |= {"max_worker_processes": "11", "max_locks_per_transaction": "70"}
        standby.restart()
        raise


IN_THE_FILE = "a line of postgresql.conf"
WHERE = {
    "server": "ALTER SYSTEM SET synchronous_commit = local",
    IN_THE_FILE: "SELECT pg_reload_conf()",
    "database": "ALTER DATABASE {0} SET synchronous_commit = off",
    "user": f"ALTER ROLE {SUPERUSER} SET synchronous_commit = off",
    "database user": f"ALTER ROLE {SUPERUSER} IN DATABASE {{0}} SET synchronous_commit = local",
}


@pytest.fixture
def waiting(ward: Ward) -> Iterator[ReplicatedShard]:
    """A shard whose hosts wait for each other; afterwards nobody waits, wherever a test had set it."""
    shard = ward.shard
    file = shard.primary.directory / "postgresql.conf"
    before = file.read_text()
    shard.configure(shard.standby, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    shard.wait_for_standby()
    yield shard
    file.write_text(before)
    for name in ("synchronous_standby_names", "synchronous_commit"):
        for server in shard.hosts:
            shard.configure(server, f"ALTER SYSTEM RESET {name}")
    for statement in list(WHERE.values())[2:]:
        ward.on_primary(statement.format(ward.name).partition(" SET ")[0] + " RESET synchronous_commit")


def test_commits_that_wait_for_a_standby_that_is_not_there(ward: Ward, waiting: ReplicatedShard) -> None:
    """The one that streams does not count: it is not named."""
    waiting.configure(waiting.primary, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (nobody)'")
    finding = ward.until_found("standbys-absent")["standbys-absent"]
    assert finding.shards == ("s1",)
    assert "FIRST 1 (nobody), and 0 of 1 such standbys stream" in str(finding)
    ward.mend(finding, lambda _command: waiting.wait_for_standby())
    ward.until_found()


@pytest.mark.parametrize("where", WHERE)
def test_commits_that_wait_for_nobody(ward: Ward, waiting: ReplicatedShard, where: str) -> None:
    if where == IN_THE_FILE:
        with (waiting.primary.directory / "postgresql.conf").open("a") as file:
            file.write("synchronous_commit = local\n")
    ward.on_primary(WHERE[where].format(ward.name), "SELECT pg_reload_conf()")
    finding = ward.until_found("commits-wait-for-nobody")["commits-wait-for-nobody"]
    assert str(finding).endswith(f"set for the {'server' if where == IN_THE_FILE else where}")
    ward.mend(finding)
    ward.until_found()


@pytest.fixture
def other_minor(ward: Ward) -> Iterator[Installation]:
    """Binaries that call themselves another minor version, as only one can be installed.

    (No standby is of another major version: it could not read what its primary writes.)
    """
    installed = find_installation()
    ((version,),) = asked(ward.shard.primary, "SELECT split_part(current_setting('server_version'), ' ', 1)")
    other = version[:-1] + ("8" if version[-1] == "9" else "9")
    package = installed.bin.parents[1]
    with tempfile.TemporaryDirectory(prefix="pgchorus-") as made:
        copy = Path(made, package.name, "pginstall")
        (copy / "bin").mkdir(parents=True)
        for entry in (*copy.parents[:2], copy, copy / "bin"):
            entry.chmod(0o755)
        for entry in installed.bin.parent.iterdir():
            if entry.name != "bin":
                (copy / entry.name).symlink_to(entry)
        libraries = f"{package.name}.libs"
        Path(made, libraries).symlink_to(package.parent / libraries)
        program = copy / "bin" / "postgres"
        content = (installed.bin / "postgres").read_bytes()
        program.write_bytes(content.replace(version.encode() + b"\0", other.encode() + b"\0"))
        program.chmod(0o755)
        if installed.account is not None and not runs_as(copy / "bin", installed.account):
            pytest.skip(f"{installed.account.name} cannot run programs in {made}")
        yield Installation(copy / "bin", installed.account)


def test_a_standby_of_another_minor_version(ward: Ward, other_minor: Installation) -> None:
    standby = ward.shard.standby
    right = standby._installation

    def install(packages: Installation) -> None:
        standby.stop()
        standby._installation = packages
        standby.start()

    install(other_minor)
    try:
        finding = ward.until_found("host-version-differs")["host-version-differs"]
        ward.mend(finding, lambda _command: install(right))
        ward.until_found()
    finally:
        if standby._installation is not right:
            install(right)
