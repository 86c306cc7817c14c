"""Starting the proxy from a process that has imported it already: a fork instead of most of a second of importing.

What is started is a process of its own all the same, with its arguments, environment, directory and output, that ends
as any Python process does. All that come from one `Preloaded` have one seed for the hashes of texts. This file is both
sides: `Preloaded` is the tests', and run as a script it is the process that forks.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

LONGEST = 1 << 20  # bytes of a request: arguments and environment


class Forked:
    """A started program; as much of `subprocess.Popen` as its users need."""

    def __init__(self, preloaded: Preloaded, pid: int, stdout: IO[str]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._preloaded = preloaded
        self._handle = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is None:
                ended = select.poll()
                ended.register(self._handle)
                if not ended.poll(None if timeout is None else timeout * 1000):
                    raise subprocess.TimeoutExpired("a proxy", timeout or 0)
                self.returncode = int(self._preloaded.ask({"reap": self.pid}))
                os.close(self._handle)
            return self.returncode

    def send_signal(self, how: int) -> None:
        with self._lock:
            if self.returncode is None:
                signal.pidfd_send_signal(self._handle, how)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Preloaded:
    """The process that forks, from its first use until `close()`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self, program: Sequence[str], log: IO[str]) -> Forked:
        """Start `python PROGRAM...` (-m MODULE or a path first), its standard error in `log`."""
        ours, theirs = os.pipe()
        try:
            request = {"program": list(program), "environment": dict(os.environ), "directory": str(Path.cwd())}
            pid = self.ask(request, theirs, log.fileno())
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return Forked(self, pid, os.fdopen(ours))

    def ask(self, request: dict[str, Any], *files: int) -> int:
        with self._lock:
            if self._socket is None:
                self._socket = self._begun()
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            answer = self._socket.recv(LONGEST)
        assert answer, "the process that starts proxies has gone"
        return int(answer)

    def _begun(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
            )
        return ours

    def close(self) -> None:
        """End it. What it has started should have ended."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.wait()
            self._process = None


def serve(requests: socket.socket) -> list[str] | None:
    """Fork for each request; return a program in the child that is to run it, None at the end of the requests."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, LONGEST, 2)
        if not message:
            return None
        request = json.loads(message)
        if "reap" in request:
            _, status = os.waitpid(request["reap"], 0)
            requests.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if pid == 0:
            requests.close()
            become(request, *files)
            return list(request["program"])
        for file in files:
            os.close(file)
        requests.send(str(pid).encode())


def become(request: dict[str, Any], output: int, errors: int) -> None:
    """Take on what a process of its own would have been started with."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for file, number in ((nothing, 0), (output, 1), (errors, 2)):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["directory"])


def main() -> None:
    import proxy.cli  # noqa: F401, PLC0415 - this is what is to be there already; the tests' side need not have it

    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        program = serve(requests)
    if program is None:
        return
    if program[0] == "-m":
        sys.argv = program[1:]
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = program
        runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path[0] = str(Path.cwd())  # as `python -m` has it
    main()
