"""docs/configuration.md and the JSON Schema are the source's, and the schema takes what pgchorus takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from proxy.config import known_keys
from proxy.config.page import document
from proxy.config.schema import schema

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = [file for file in sorted((ROOT / "conf").glob("*.yaml")) if file.name != "demo-tables.yaml"]
VALIDATOR = Draft202012Validator(schema())
SMALL = {
    "cluster": "demo",
    "auth": {"method": "trust"},
    "databases": {"shop": {"shards": {"s0": "postgres://p@h/d"}, "home": "s0"}},
}


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == document(), "run: make docs"


def test_the_schema_is_current_and_one() -> None:
    assert json.loads((ROOT / "conf" / "pgchorus.schema.json").read_text()) == schema(), "run: make docs"
    Draft202012Validator.check_schema(schema())


def test_the_page_has_every_key_with_a_word_on_it() -> None:
    page = document()
    for path in known_keys():
        shown = re.escape(path.replace("*", "NAME"))
        said = re.search(rf"^\| `{shown}` \|.*\| (.*) \|$", page, re.MULTILINE)
        heading = re.search(rf"^## {shown}$", page, re.MULTILINE)
        assert heading is not None or (said is not None and said[1].strip()), path


def readme_configuration() -> str:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(block)


@pytest.mark.parametrize("text", [*(file.read_text() for file in CONFIGURATIONS), readme_configuration()])
def test_the_schema_takes_what_is_in_conf(text: str) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("clutser", "demo"),
        ("cluster", {"demo": 1}),
        ("listen.port", 65_536),
        ("listen.prot", 6432),
        ("workers", 0),
        ("auth.method", "kerberos"),
        ("auth.rules.office", {"networks": "10.0.0.0/8"}),
        ("databases.shop.slots", 4095),
        ("databases.shop.shards", {}),
        ("databases.shop.tables.orders", "everywhere"),
        ("databases.shop.tables.orders", {"column": "id"}),
        ("limits.pool.size", 0),
        ("limits.pool.size", 1.5),
        ("tracing", {"endpoint": "http://h", "sample": 2}),
    ],
)
def test_the_schema_refuses(path: str, value: object) -> None:
    content: dict[str, Any] = json.loads(json.dumps(SMALL))
    assert VALIDATOR.is_valid(content)
    *parents, last = path.split(".")
    at = content
    for parent in parents:
        at = at.setdefault(parent, {})
    at[last] = value
    assert not VALIDATOR.is_valid(content)


def test_what_is_missing_is_missed() -> None:
    for name in SMALL:
        assert not VALIDATOR.is_valid({key: value for key, value in SMALL.items() if key != name})
