"""docs/tutorial.md as a reader follows it: each command in one shell, each answer compared with the page's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.demo.embedded import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.demo.embedded import EmbeddedServer

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
PORT = "6432"  # on the page
END = "-- that was command"
LIMIT_S = 300  # it takes ten seconds of processor time, which can be long on a machine with a load of twenty
KILLED = re.compile(r"^\S+: line \d+: +\d+ (Killed|Terminated) .*\n", re.MULTILINE)  # the shell's, of its background


def commands(page: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a page (lines from ``$ `` on, until it is whole) and what the page shows below it."""
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        command, shown = "", ""
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                if command:
                    yield command, shown
                command, shown = line[2:], ""
            elif is_whole(command):
                shown += line
            else:
                command += line
        yield command, shown


def is_whole(command: str) -> bool:
    """Whether the shell would begin to run it: quotes, loops, here-documents and continued lines are closed."""
    asked = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
    return asked.returncode == 0 and not asked.stderr and not command.rstrip("\n").endswith("\\")


@pytest.mark.timeout(LIMIT_S + 60)
def test_the_tutorial(tmp_path: Path, servers: list[EmbeddedServer]) -> None:
    steps = list(commands(TUTORIAL.read_text(encoding="utf-8")))
    assert len(steps) > 20
    port = free_port([server.port for server in servers])
    script = "trap 'kill $(jobs -p) 2>/dev/null' EXIT\n"
    for number, (command, _) in enumerate(steps):
        script += f"{command.replace(PORT, str(port))}\necho '{END} {number}'\n"
    (tmp_path / "script").write_text(script, encoding="utf-8")
    programs = [str(Path(sys.executable).parent), str(Path(servers[0].program("psql")).parent)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    shell = subprocess.Popen(
        ["bash", "script"],
        cwd=tmp_path,
        env={**outside, "PATH": os.pathsep.join([*programs, outside["PATH"]])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGTERM)
        said, _ = shell.communicate()
        said += "-- and there it stood still"
    answers = re.split(rf"{END} \d+\n", KILLED.sub("", said))
    for (command, shown), answer in zip(steps, answers, strict=False):
        logs = "".join(path.read_text() for path in sorted(tmp_path.glob("*.log")))
        assert answer == shown, f"{command}\n{logs}"
    assert len(answers) == len(steps) + 1
    assert not answers[-1]
    assert shell.returncode == 0
