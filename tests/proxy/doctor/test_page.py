from __future__ import annotations

import re
from pathlib import Path

from proxy.doctor.kinds import AREAS, KINDS
from proxy.doctor.page import document

ROOT = Path(__file__).parents[3]


def test_the_page_is_current() -> None:
    assert (ROOT / "docs" / "doctor.md").read_text() == document(), "run: make docs"


def test_every_finding_has_one_name_and_is_on_the_page_once() -> None:
    names = [kind.name for area in AREAS for kind in area.kinds]
    assert len(names) == len(set(names)) == len(KINDS)
    for name in names:
        assert sum(line.startswith(f"| `{name}` |") for line in document().splitlines()) == 1


def test_each_finding_is_made_to_be_found_by_a_test() -> None:
    """Planted on servers (test_findings, test_hosts), or where none can be made so, in what they say (test_facts)."""
    here = Path(__file__)
    others = [here.with_name(f"test_{name}.py") for name in ("findings", "hosts", "facts")]
    others.append(here.parents[1] / "test_cli.py")
    others.append(here.parents[2] / "faults" / "test_failover.py")
    text = "".join(path.read_text() for path in others)
    assert [name for name in KINDS if not re.search(rf"[\" ]{name}[\":]", text)] == []


def test_what_is_found_is_a_kind_and_each_kind_can_be_found() -> None:
    text = "".join(path.read_text() for path in (ROOT / "proxy" / "doctor").glob("*.py") if "kind" not in path.name)
    named = set(re.findall(r'"([a-z]+(?:-[a-z0-9]+)+)"', text)) & KINDS.keys()
    assert KINDS.keys() - named == {name for name in KINDS if name.startswith("drift-")} - named
    text = (ROOT / "proxy" / "shards" / "drift_sql.py").read_text()
    assert all(re.findall(rf"SELECT '{name.removeprefix('drift-')}'", text) for name in KINDS if "drift-" in name)
