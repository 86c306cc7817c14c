"""The benchmark of everything: parts that exist, each once, and one that fails."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from bench import everything

if TYPE_CHECKING:
    from collections.abc import Sequence


def test_each_part_is_a_program_and_can_be_tried_quickly() -> None:
    assert everything.PARTS.keys() == everything.QUICK.keys()
    for name, (module, *_) in everything.PARTS.items():
        assert find_spec(module) is not None
        assert everything.QUICK[name][0] == module


def test_a_part_that_fails_keeps_none_from_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run(command: Sequence[str]) -> int:
        ran.append(command[2])
        return int(command[2] == "bench.fence")

    monkeypatch.setattr(everything, "run", run)
    monkeypatch.setattr(everything, "end_on_signals", lambda: None)
    monkeypatch.setattr(everything.os, "geteuid", lambda: 0)
    assert everything.main([]) == 1
    assert ran == [module for module, *_ in everything.PARTS.values()]
    assert "fence" in capsys.readouterr().err
    assert everything.main(["--only", "idle,beside"]) == 0
    with pytest.raises(SystemExit):
        everything.main(["--only", "nothing"])


def test_what_is_for_root_alone_is_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(everything.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(everything, "run", lambda _: pytest.fail("it was run"))
    monkeypatch.setattr(everything, "end_on_signals", lambda: None)
    assert everything.main(["--only", "cores"]) == 0
    assert "not measured" in capsys.readouterr().out
