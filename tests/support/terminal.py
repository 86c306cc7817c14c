"""psql at a terminal, as a person has it: prompts, Ctrl-C, a pager that is none."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

from programs import environment, program

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

PATIENCE_SECONDS = 20.0
_PROMPT = re.compile(r"(?:^|\n)(\w+[=(\-'\"$^!][!*?]?[#>] )$")

# Makes standard input the terminal of the new session, which is what turns Ctrl-C into SIGINT, and becomes the program.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """One psql. `say()` types a line and returns what was printed up to the next prompt; `prompt` is that prompt."""

    def __init__(self, dsn: str) -> None:
        ours, theirs = pty.openpty()
        settings = termios.tcgetattr(theirs)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(theirs, termios.TCSANOW, settings)
        self._terminal = ours
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, program("psql"), "-X", "-n", dsn],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**environment(), "TERM": "dumb", "COLUMNS": "200"},
            start_new_session=True,
        )
        os.close(theirs)
        self.prompt = ""
        self.greeting = self.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)

    def type(self, text: str) -> None:
        """Type without waiting for an answer."""
        os.write(self._terminal, text.encode())

    def wait_until_it_reads(self) -> None:
        """Wait until psql, whose prompt was printed, sleeps in its read: before that Ctrl-C gives no new prompt."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type("\x03")

    def say(self, line: str) -> str:
        """Type a line (or several, each at its prompt), return what was printed."""
        printed = []
        for one in line.split("\n"):
            self.type(one + "\n")
            printed.append(self.read())
        return "\n".join(filter(None, printed))

    def read(self) -> str:
        """Return what is printed up to the next prompt."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        printed = ""
        while True:
            found = _PROMPT.search(printed)
            if found is not None:
                self.prompt = found[1].strip()
                return printed[: found.start(1)].strip("\n")
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no prompt after {PATIENCE_SECONDS:g} s, only: {printed}"
            try:
                data = os.read(self._terminal, 1 << 16)
            except OSError as error:  # how a terminal tells that its program has ended
                raise AssertionError(f"psql ended: {printed}") from error
            printed += data.decode().replace("\r\n", "\n")
