"""Runs executions: scatter, merge, aggregate, split writes, COPY in both directions. ``execute`` is the way in."""

from proxy.executor.run import execute

__all__ = ["execute"]
