"""Which tag of a repository fits an installed version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from sources import nearest_tag

TAGS = ["3.2.13", "3.3.0", "3.3.0.dev1", "3.3.2", "3.3.10", "3.4.0", "pool-3.3.3", "nightly"]


@pytest.mark.parametrize(
    ("version", "tag"), [("3.3.2", "3.3.2"), ("3.3.9", "3.3.2"), ("3.3.12", "3.3.10"), ("3.2.14.dev1", "3.2.13")]
)
def test_the_tag_of_a_version_or_the_last_before_it(version: str, tag: str) -> None:
    assert nearest_tag(TAGS, version) == tag


def test_no_tag_of_another_series_will_do() -> None:
    with pytest.raises(ValueError, match=r"3\.5\.1"):
        nearest_tag(TAGS, "3.5.1")
