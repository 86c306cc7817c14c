"""Django's and Alembic's own commands, run through the proxy and against one Postgres."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from dumps import definitions, only_at_home, stored

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

HERE = Path(__file__).parent
DJANGO = HERE / "django_project"
ALEMBIC = HERE / "alembic_project"
TABLES = {
    "django": {"shop_customer": {"key": "id"}, "purchases": {"key": "customer_id"}, "shop_country": "reference"},
    "alembic": {"lab.samples": {"key": "id"}, "lab.readings": {"key": "sample_id"}, "lab.units": "reference"},
}


def django(dsn: str, *arguments: str) -> None:
    where = urlsplit(dsn)
    surroundings = {
        "DJANGO_SETTINGS_MODULE": "settings",
        "PYTHONPATH": str(DJANGO),
        "SHOP_HOST": where.hostname or "",
        "SHOP_PORT": str(where.port or ""),
        "SHOP_NAME": where.path[1:],
        "SHOP_USER": where.username or "",
    }
    run(["-m", "django", *arguments], surroundings)


def alembic(dsn: str, *arguments: str) -> None:
    url = dsn.replace("postgres://", "postgresql://").replace("postgresql://", "postgresql+psycopg://")
    program = (
        "import sys; from alembic import command; from alembic.config import Config; config = Config();"
        "config.set_main_option('script_location', sys.argv[1]); config.set_main_option('sqlalchemy.url', sys.argv[2]);"
        "getattr(command, sys.argv[3])(config, sys.argv[4])"
    )
    run(["-c", program, str(ALEMBIC), url, *arguments], {})


def run(arguments: list[str], surroundings: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **surroundings}
    )
    assert done.returncode == 0, done.stdout + done.stderr


STEPS = {
    "django": (django, [("migrate", "-v", "0")], [("migrate", "-v", "0", "shop", "0001")]),
    "alembic": (alembic, [("upgrade", "head")], [("downgrade", "0001")]),
}


@pytest.mark.parametrize("tool", list(STEPS))
def test_migrations_over_two_shards(tool: str, make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    one, shards = make_databases(1, "one")[0], make_databases(2, tool)
    through = start_proxy(shards, TABLES[tool]).dsn(shards[0].rpartition("/")[2])
    command, *turns = STEPS[tool]
    for steps in turns:
        for step in steps:
            command(one, *step)
            command(through, *step)
        assert definitions(shards[0]) == definitions(one)
        assert definitions(shards[1]) == definitions(one, without=only_at_home(shards))
        assert stored(through) == stored(one)
