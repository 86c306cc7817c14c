"""What the pages say of other things that exist: links lead somewhere, commands are there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Hand-written ones; reports of benchmarks are their commands' own.
PAGES = sorted(
    page
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("*/**/*.md")]
    if not any(part.startswith(".") or part in {"build", "dist", "results"} for part in page.relative_to(ROOT).parts)
)
LINK = re.compile(r"\]\(([^()\s]+)\)")
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} is not there"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{target}: {path} has {sorted(anchors(there))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text))
    assert named <= targets, f"no target: {sorted(named - targets)}"
    for module in re.findall(r"python -m ((?:bench|proxy|router)\b[\w.]*)", text):
        assert importlib.util.find_spec(module) is not None, f"no module {module}"
    for script in re.findall(r"python ([\w/]+\.py)", text):
        assert (ROOT / script).is_file(), f"no script {script}"
    for run in re.findall(r"-m pytest ([^`\n#]*)", text):
        for path in [word for word in run.split() if word.startswith("tests/")]:
            assert (ROOT / path).exists(), f"no tests {path}"


def test_the_site_is_built_and_has_every_page(tmp_path: Path) -> None:
    """MkDocs is strict: a link or an anchor that leads nowhere, or a page that is in no menu, fails it."""
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "make_site.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    for page in PAGES:
        if page.relative_to(ROOT).parts[0] == "docs":
            assert (tmp_path / "site" / page.relative_to(ROOT)).with_suffix(".html").is_file(), page
    assert (tmp_path / "site" / "index.html").is_file()


def test_there_are_pages() -> None:
    """What is looked at above is not nothing."""
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/limits.md", "docs/promises.md", "proxy/twophase/README.md"} <= names
