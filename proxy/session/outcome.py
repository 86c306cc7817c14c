"""What a handler tells the loop besides its answer."""

from __future__ import annotations


class Reported(Exception):  # noqa: N818 - not an error of ours: the shard's own was passed on already
    """The statement failed and the client has been told, by frames passed on from the shard."""
