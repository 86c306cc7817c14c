"""Every file in conf/ is loaded, and the reference is complete: every key, its default and a word on it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.cli import parser
from proxy.config import FORM, known_keys, load, load_tables
from proxy.config.explained import places
from proxy.limits import Limits

CONF = Path(__file__).parents[1] / "conf"
TABLE_FILES = {"demo-tables.yaml"}
ENVIRONMENT = {
    "APP_PASSWORD": "a password",
    "SHARD_0_DSN": "postgres://pgchorus@10.0.0.1/shop",
    "SHARD_1_DSN": "postgres://pgchorus@10.0.0.2,10.0.0.3:5433/shop?target_session_attrs=read-write",
    "SHARD_2_DSN": "postgres://pgchorus@10.0.0.4/shop",
}
REFERENCE = CONF / "reference.yaml"


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.name)
def test_every_file_is_loaded(file: Path) -> None:
    if file.name in TABLE_FILES:
        assert load_tables(file).placements
    else:
        assert load(file, ENVIRONMENT).databases


def test_the_alert_rules_are_tested_and_fire_when_they_should() -> None:
    """By Prometheus's own promtool where there is one; that every alert has a test is seen anywhere."""
    directory = CONF / "prometheus"
    rules = yaml.safe_load((directory / "alerts.yaml").read_text())
    tested = (directory / "alerts_test.yaml").read_text()
    alerts = [rule["alert"] for group in rules["groups"] for rule in group["rules"]]
    assert [alert for alert in alerts if alert not in tested] == []
    promtool = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian's package prometheus, or PROMTOOL=path)")
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([promtool, *arguments], cwd=directory, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_is_one_of_grafanas() -> None:
    """By Grafana's own published model of a dashboard: nothing in the file is unknown to it, or of another form."""
    models = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="pip install grafana-foundation-sdk")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder")
    written = json.loads((CONF / "grafana" / "pgchorus.json").read_text())
    read = models.Dashboard.from_json(written)
    assert parts_missing(written, json.loads(encoder.JSONEncoder(sort_keys=True).encode(read))) == []


def test_the_dashboard_lies_flat() -> None:
    """Numbers are given once, panels do not cover each other, and all ask the data source that is chosen above."""
    dashboard = json.loads((CONF / "grafana" / "pgchorus.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    covered: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & covered, panel["title"]
        assert place["x"] + place["w"] <= 24
        covered |= cells
        assert panel["datasource"]["uid"] == "${datasource}"
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert [one["name"] for one in dashboard["templating"]["list"]] == ["datasource"]


def parts_missing(written: Any, read: Any, where: str = "") -> list[str]:
    """Return the places at which something was read otherwise than it was written."""
    if isinstance(written, dict) and isinstance(read, dict):
        return [
            place
            for key, value in written.items()
            for place in (parts_missing(value, read[key], f"{where}.{key}") if key in read else [f"{where}.{key}"])
        ]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = zip(written, read, strict=True)
        return [place for number, pair in enumerate(pairs) for place in parts_missing(*pair, f"{where}[{number}]")]
    return [] if written == read else [where]


def test_the_container_file_copies_what_there_is_and_starts_what_there_is() -> None:
    """Nobody builds it here: what it says about this project is compared with the project."""
    text = (CONF / "container" / "Containerfile").read_text()
    copied = [line.split()[1:-1] for line in text.splitlines() if line.startswith("COPY") and "--from" not in line]
    needed = {"pyproject.toml", "setup.py", "LICENSE", "proxy", "router"}  # what a wheel is made of
    assert {name for names in copied for name in names} == needed
    assert all((CONF.parent / name).exists() for name in needed)
    (command,) = [json.loads(line.removeprefix("CMD ")) for line in text.splitlines() if line.startswith("CMD ")]
    assert parser().parse_args(command).command == "serve"
    project = tomllib.loads((CONF.parent / "pyproject.toml").read_text())["project"]
    (extras,) = re.findall(r"/source\[([a-z,]+)\]", text)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    assert "pgchorus" in project["scripts"]


def test_the_unit_of_systemd_starts_what_there_is() -> None:
    unit = configparser.ConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # names are case-sensitive there
    unit.read(CONF / "systemd" / "pgchorus.service")
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert program.endswith("/pgchorus")
    assert parser().parse_args(arguments).command == "serve"
    sockets = configparser.ConfigParser()
    sockets.read(CONF / "systemd" / "pgchorus.socket")
    assert unit["Unit"]["Requires"] == "pgchorus.socket"
    assert sockets["Socket"]["ListenStream"] == "6432"


def test_the_reference_has_every_key_and_no_other() -> None:
    found = {path for path, _ in places(yaml.compose(REFERENCE.read_text()), FORM)}
    assert found == set(known_keys())


def test_the_reference_says_something_about_every_key() -> None:
    lines = REFERENCE.read_text().splitlines()
    explained: dict[str, bool] = {}
    for path, line in places(yaml.compose(REFERENCE.read_text()), FORM):
        above = lines[line - 1].lstrip().startswith("# ") if line else False
        explained[path] = explained.get(path, False) or above or " # " in lines[line]
    assert [path for path, said in explained.items() if not said] == []


def test_the_reference_shows_the_defaults() -> None:
    limits = load(REFERENCE, ENVIRONMENT).limits
    assert limits == Limits()
    shown = REFERENCE.read_text()
    for item in fields(Limits):
        doc = item.metadata["doc"]
        assert doc in shown, f"the reference words {item.name} in another way than proxy/limits.py"
