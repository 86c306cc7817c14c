"""Django's and Alembic's own commands, and Django's tutorial, run through the proxy and against one Postgres."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from dumps import definitions, only_at_home, stored

if TYPE_CHECKING:
    from tests.conftest import MakeDatabases, StartProxy

HERE = Path(__file__).parent
DJANGO = HERE / "django_project"
POLLS = HERE / "polls_project"
ALEMBIC = HERE / "alembic_project"
TABLES = {
    "django": {"shop_customer": {"key": "id"}, "purchases": {"key": "customer_id"}, "shop_country": "reference"},
    "polls": {
        "polls_question": "reference",
        "polls_choice": {"key": "id"},
        "django_session": {"key": "session_key"},
    },
    "alembic": {"lab.samples": {"key": "id"}, "lab.readings": {"key": "sample_id"}, "lab.units": "reference"},
}


ROWS = [
    {"model": "shop.country", "pk": "de", "fields": {"name": "Germany"}},
    *(
        {
            "model": "shop.customer",
            "pk": key,
            "fields": {
                "full_name": f"C {key}",
                "email": f"{key}@x.org",
                "country": "de",
                "joined": "2026-01-01T00:00:00Z",
            },
        }
        for key in (103, 117, 130, 141)
    ),
    {"model": "shop.setting", "pk": 9, "fields": {"name": "loaded", "value": "b", "related": []}},
]
MAKE = """
from shop.models import Customer
Customer.objects.create(full_name="new", email="{number}@new.org", country_id="de", joined="2026-01-01T00:00:00Z")
"""


def ids(dsn: str) -> list[int]:
    with psycopg.connect(dsn) as client:
        return [key for (key,) in client.execute("SELECT id FROM shop_customer")]


def surroundings(dsn: str, project: Path, prefix: str) -> dict[str, str]:
    """Return what tells a Django project where its database is."""
    where = urlsplit(dsn)
    return {
        "DJANGO_SETTINGS_MODULE": "settings",
        "PYTHONPATH": str(project),
        f"{prefix}_HOST": where.hostname or "",
        f"{prefix}_PORT": str(where.port or ""),
        f"{prefix}_NAME": where.path[1:],
        f"{prefix}_USER": where.username or "",
    }


def django(dsn: str, *arguments: str) -> None:
    run(["-m", "django", *arguments], surroundings(dsn, DJANGO, "SHOP"))


def alembic(dsn: str, *arguments: str) -> None:
    url = dsn.replace("postgres://", "postgresql://").replace("postgresql://", "postgresql+psycopg://")
    program = (
        "import sys; from alembic import command; from alembic.config import Config; config = Config();"
        "config.set_main_option('script_location', sys.argv[1]); config.set_main_option('sqlalchemy.url', sys.argv[2]);"
        "getattr(command, sys.argv[3])(config, sys.argv[4])"
    )
    run(["-c", program, str(ALEMBIC), url, *arguments], {})


def run(arguments: list[str], surroundings: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **surroundings}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def polls(dsn: str, shards: int) -> list[str]:
    """Migrate and go through Django's tutorial; return what was seen."""
    around = {**surroundings(dsn, POLLS, "POLLS"), "POLLS_SHARDS": str(shards)}
    run(["-m", "django", "migrate", "-v", "0"], around)
    return run([str(POLLS / "walk.py")], around).splitlines()


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


def test_djangos_sequences_over_two_shards(
    make_databases: MakeDatabases, start_proxy: StartProxy, tmp_path: Path
) -> None:
    """loaddata brings rows with their ids, of every kind of table, and sets the sequences; so does sqlsequencereset."""
    one, shards = make_databases(1, "one")[0], make_databases(2, "django")
    through = start_proxy(shards, TABLES["django"]).dsn(shards[0].rpartition("/")[2])
    fixture = tmp_path / "rows.json"
    fixture.write_text(json.dumps(ROWS))
    for dsn in (one, through):
        django(dsn, "migrate", "-v", "0")
        django(dsn, "loaddata", "-v", "0", str(fixture))
        django(dsn, "shell", "-v", "0", "-c", MAKE.format(number=1))
    assert stored(through) == stored(one)
    assert max(ids(through)) == 142  # behind those that were loaded
    for dsn in (one, through):
        django(
            dsn,
            "shell",
            "-v",
            "0",
            "-c",
            "from shop.models import Customer; Customer.objects.filter(id__gt=130).delete()",
        )
        reset = run(["-m", "django", "sqlsequencereset", "shop"], surroundings(dsn, DJANGO, "SHOP"))
        assert reset.count("setval") == 3
        with psycopg.connect(dsn, autocommit=True) as client:
            client.execute(reset.encode())
        django(dsn, "shell", "-v", "0", "-c", MAKE.format(number=2))
    assert stored(through) == stored(one)
    assert sorted(ids(through))[-4:] == [103, 117, 130, 131]


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2])
def test_djangos_tutorial(count: int, make_databases: MakeDatabases, start_proxy: StartProxy) -> None:
    """Models and queries, the pages, the admin's pages, dumpdata and loaddata: all as with one Postgres."""
    one, shards = make_databases(1, "one")[0], make_databases(count, "polls")
    through = start_proxy(shards, TABLES["polls"]).dsn(shards[0].rpartition("/")[2])
    expected = polls(one, count)
    assert len(expected) > 50
    assert polls(through, count) == expected
    # Sessions and passwords are random.
    found, wanted = ({name: rows for name, rows in stored(dsn).items() if "polls" in name} for dsn in (through, one))
    assert found == wanted
