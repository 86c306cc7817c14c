"""Parts of a core: what is written to the control groups of either version, and what is left of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.model import BenchError
from bench.shares import QUOTA_US, group_below, limit, limited

if TYPE_CHECKING:
    from pathlib import Path


def test_the_first_version_has_a_tree_for_cpu(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    group = group_below(tmp_path, "one")
    assert group == tmp_path / "cpu" / "one"
    group.mkdir()
    limit(group, 0.25)
    assert (group / "cpu.cfs_period_us").read_text() == str(QUOTA_US * 4)
    assert (group / "cpu.cfs_quota_us").read_text() == str(QUOTA_US)


def test_the_second_version_has_one_tree(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io\n")
    group = group_below(tmp_path, "one")
    assert group == tmp_path / "one"
    group.mkdir()
    limit(group, 0.1)
    assert (group / "cpu.max").read_text() == f"{QUOTA_US} {QUOTA_US * 10}"
    with limited(0.1, "x", tmp_path):
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"


def test_without_control_groups_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError):
        group_below(tmp_path, "one")
    (tmp_path / "cgroup.controllers").write_text("io memory\n")
    with pytest.raises(BenchError), limited(0.5, "x", tmp_path):
        pass
