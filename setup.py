"""What pyproject.toml cannot say: with PGCHORUS_COMPILE=1 the hot path of a wheel is compiled by mypyc.

``PGCHORUS_COMPILE=1 pip wheel .`` (``make wheel``) needs a C compiler and Python's headers; pip fetches mypy for the
build. Without it, everything is Python as it stands here, and behaves the same: compiled modules are for speed alone,
and nothing is imported that plain Python would not import.

A module is listed when measuring has shown that it gains something (docs/hot-path.md). Classes in it are laid out once:
no base from outside but Exception, no attribute that the class does not declare, nothing replaced from outside.
"""

from __future__ import annotations

import os
import sys
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from setuptools import setup

if TYPE_CHECKING:
    from setuptools import Extension

MYPY = "mypy>=2.4,<3"
COMPILED = (
    "proxy/connection.py",
    "proxy/fields.py",
    "proxy/ledger.py",
    "proxy/session/known_binds.py",
    "proxy/session/lane.py",
    "proxy/session/lane_ahead.py",
    "proxy/session/lane_answer.py",
    "proxy/session/lane_block.py",
    "proxy/session/lane_commit.py",
    "proxy/session/lane_quick.py",
    "proxy/session/lane_waits.py",
    "proxy/shards/bound.py",
    "proxy/shards/cut.py",
    "proxy/shards/doomed.py",
    "proxy/shards/draining.py",
    "proxy/shards/link.py",
    "proxy/shards/pool.py",
    "proxy/shards/pool_set.py",
    "proxy/shards/prefix.py",
    "proxy/shards/quick.py",
    "proxy/shards/receivers.py",
    "proxy/shards/relay.py",
    "proxy/shards/types.py",
    "proxy/shards/waiters.py",
    "proxy/twophase/drive.py",
    "proxy/twophase/messages.py",
    "proxy/twophase/settling.py",
    "proxy/wire/frames.py",
    "proxy/wire/pipeline.py",
    "router/bound_query.py",
    "router/digits.py",
    "router/sharding.py",
    "router/shortcut.py",
)
# Types were checked where mypy had all packages (make lint); here it has none of those that the proxy imports.
OPTIONS = (
    "--config-file=",
    "--python-version=3.11",
    "--explicit-package-bases",
    "--namespace-packages",
    "--ignore-missing-imports",
    "--follow-imports=silent",
)


def extensions(directory: str) -> list[Extension]:
    """Compile; raises ModuleNotFoundError without mypy: a wheel that was to be compiled is never plain."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only for those who compile

    made: list[Extension] = mypycify(
        [*OPTIONS, *COMPILED], opt_level="2", debug_level="0", group_name="pgchorus", target_dir=directory
    )
    return made


if os.environ.get("PGCHORUS_COMPILE", "") in {"", "0"}:
    setup()
elif "egg_info" in sys.argv:  # so pip asks what the build needs, before any of it is there
    setup(setup_requires=[MYPY])
else:
    # What an earlier build has left in build/ would go into the wheel: a module that is not compiled any more.
    with TemporaryDirectory(prefix="pgchorus-build-") as directory:
        setup(ext_modules=extensions(directory), options={"build": {"build_base": directory}})
