"""Runs executions: scatter, merge, aggregate, split writes, COPY in both directions."""
