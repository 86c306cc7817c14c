"""What the small benchmarks stand on: whatever ends them ends what they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from waiting import eventually

REPOSITORY = Path(__file__).parents[2]
STANDING = """
import sys, time
from bench.contenders import child
from bench.standing import standing
with standing("signals", 0) as (_, home, stack):
    process = stack.enter_context(child([sys.executable, "-c", "import time; time.sleep(1000)"], home, home / "log"))
    print(process.pid, home, flush=True)
    time.sleep(1000)
"""
PARTS = """
import sys
from bench import everything
everything.PARTS["mine"] = ("part",)
sys.exit(everything.main(["--only", "mine"]))
"""


def gone(pid: int) -> bool:
    """Whether a process is no more (it is nobody's child here)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("by_everything", [False, True])
def test_a_signal_ends_what_was_started(tmp_path: Path, number: signal.Signals, *, by_everything: bool) -> None:
    (tmp_path / "part.py").write_text(STANDING)
    with subprocess.Popen(
        [sys.executable, "-c", PARTS if by_everything else STANDING],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}:{tmp_path}"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        if by_everything:
            assert process.stdout.readline() == "== python -m part\n"
        pid, home = process.stdout.readline().split()
        assert Path(home).is_dir()
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    eventually(lambda: gone(int(pid)))
    assert not Path(home).exists()
