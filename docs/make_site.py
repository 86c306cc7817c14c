"""The documentation as a site: ``make site`` writes ``build/docs/site``, to be served by anything that serves files.

The pages are those of the repository, readable there as they stand. Decides which they are (the README, docs/, the
READMEs of rooms) and gathers them with every file that one of them links to, at the same places, so that links hold.
How they look is MkDocs's, by mkdocs.yml; a link that leads nowhere fails the build.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^()\s#]+)(?:#[^()\s]*)?\)")


def pages() -> list[Path]:
    """Return the pages of the repository, from its root."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("*/*/README.md")]
    results = ROOT.glob("bench/results/*/README.md")
    return sorted({page.relative_to(ROOT) for page in [*found, *results] if page.parts[-2] != ".venv"})


def linked(page: Path) -> set[Path]:
    """Return the files that a page links to, from the root."""
    found = set()
    for target in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        there = (ROOT / page.parent / target).resolve()
        if "://" not in target and there.is_file():
            found.add(there.relative_to(ROOT))
    return found


def gather(into: Path) -> list[Path]:
    """Copy the pages and what they link to; returns the pages."""
    wanted = pages()
    for file in sorted({*wanted, *(file for page in wanted for file in linked(page))}):
        (into / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, into / file)
    return wanted


def main(where: Path) -> None:
    """Make the site in a directory, anew; exits with MkDocs's complaint if a link leads nowhere."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    shutil.rmtree(where, ignore_errors=True)
    source = where / "source"
    gather(source)
    build(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(source), site_dir=str(where / "site"), strict=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
