"""See that a process which a test started does not outlive the test run, also when that is killed by SIGKILL."""

from __future__ import annotations

import subprocess
from typing import Self

SCRIPT = 'cat >/dev/null; kill -TERM "$1"'


class Watch:
    """A shell at the other end of a pipe of ours: when our end closes it sends SIGTERM to `pid`. End it in time."""

    def __init__(self, pid: int) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", SCRIPT, "watch", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        self._shell.kill()
        self._shell.communicate()
