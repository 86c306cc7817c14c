"""Brings the test suites of other projects here: from the package index, or from a project's public repository.

They lie in `.suites`, which git ignores. What a suite needs besides, and only it, is installed beside it.
"""

# ruff: noqa: T201 - part of a command that speaks to a person

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catalogue import Suite


class UnreachableError(Exception):
    """The package index cannot be reached."""


CACHE = Path(__file__).parents[2] / ".suites"
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def fetched(suite: Suite) -> Path:
    """Return the directory with the suite's tests, brought here if need be."""
    target = CACHE / f"{suite.distribution}-{suite.version}".lower()
    if target.exists():
        return target
    fresh = target.with_name(target.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    if suite.repository:
        _clone(suite, fresh)
    else:
        _unpack(suite, fresh)
    if suite.needs:
        _pip("install", "--no-deps", "--target", str(fresh / ".needs"), *suite.needs)
    fresh.rename(target)
    return target


def _unpack(suite: Suite, fresh: Path) -> None:
    """Take the tests out of the source distribution of the installed version."""
    archives = CACHE / "archives"
    wanted = f"{suite.distribution}=={suite.version}"
    _pip("download", "--no-deps", "--no-binary", suite.distribution, "-d", str(archives), wanted)
    normal = re.sub("[-_.]+", "[-_.]+", suite.distribution)
    (archive,) = (
        file
        for file in archives.iterdir()
        if re.fullmatch(f"{normal}-{re.escape(suite.version)}.tar.gz", file.name, re.IGNORECASE)
    )
    with tarfile.open(archive) as source:
        if hasattr(tarfile, "data_filter"):  # Python 3.11 has it from 3.11.4 on
            source.extraction_filter = tarfile.data_filter
        for member in source.getmembers():
            inside = member.name.partition("/")[2]
            if inside.startswith(tuple(suite.keep)):
                member.name = inside
                source.extract(member, fresh)


def _pip(*arguments: str) -> None:
    """Run pip, once more or not at all where the index does not answer. Raises UnreachableError for that."""
    ended = subprocess.run(
        [*PIP, "--retries", "1", *arguments], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if ended.returncode and "connection broken by" in ended.stdout:
        raise UnreachableError(ended.stdout)
    if ended.returncode:
        print(ended.stdout)
        ended.check_returncode()


def _clone(suite: Suite, fresh: Path) -> None:
    """Take the tests of the installed version's tag, or of the last one before it in the same series, and say which."""
    listed = subprocess.run(
        ["git", "ls-remote", "--tags", "--refs", suite.repository], check=True, capture_output=True, text=True
    )
    tags = [line.rpartition("/")[2] for line in listed.stdout.splitlines()]
    tag = nearest_tag(tags, suite.version)
    print(f"{suite.name}: the tests of tag {tag} for version {suite.version}")
    clone = ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", "--depth", "1", "--branch", tag]
    subprocess.run([*clone, suite.repository, str(fresh)], check=True)
    for path in fresh.iterdir():
        if not any(kept.partition("/")[0] == path.name for kept in suite.keep):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def nearest_tag(tags: list[str], version: str) -> str:
    """Return the tag of a version, or the newest one before it that has the same first two numbers."""
    wanted = _numbers(version)
    known = {_numbers(tag): tag for tag in tags if re.fullmatch(r"\d+(\.\d+)+", tag)}
    earlier = [numbers for numbers in known if numbers[:2] == wanted[:2] and numbers <= wanted]
    if not earlier:
        msg = f"no tag for version {version}"
        raise ValueError(msg)
    return known[max(earlier)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
