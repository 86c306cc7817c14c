"""What the benchmark ran on: the machine, the versions and the build, without names or paths of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from proxy.build import build

PACKAGES = ("uvloop", "asyncpg", "pglast")


def describe(programs: dict[str, list[str]], contenders: dict[str, str]) -> dict[str, str]:
    """Return label and text, in reading order. ``programs`` are asked for their version by the given command."""
    found = {
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} usable cores",
        "memory": f"{memory_gib():.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load average at start": f"{os.getloadavg()[0]:.2f}",
    }
    found |= {name: version_of(command) for name, command in programs.items()}
    found |= contenders
    found["Python"] = platform.python_version()
    return found


def pgchorus_version() -> str:
    """Return version, commit and build of the proxy."""
    try:
        version = metadata.version("pgchorus")
    except metadata.PackageNotFoundError:
        version = "not installed"
    libraries = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    return f"{version} ({commit()}; {build()}; {libraries})"


def commit() -> str:
    """Return the commit of the checkout, marked when files differ from it."""
    here = Path(__file__).parent.parent
    try:
        head = version_of(["git", "-C", str(here), "rev-parse", "--short", "HEAD"])
        changed = version_of(["git", "-C", str(here), "status", "--porcelain", "--", "proxy", "router"])
    except (OSError, subprocess.CalledProcessError):
        return "commit unknown"
    return f"commit {head}" + (" with changes" if changed else "")


def version_of(command: list[str]) -> str:
    """Return the first line that a program prints."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)
    return next(iter(done.stdout.splitlines()), "")


def processor() -> str:
    """Return the processor's name as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def memory_gib() -> float:
    """Return the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
