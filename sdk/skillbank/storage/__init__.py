"""Data in and out: plain paths, ``file://``, ``s3://``, ``http(s)://``; cache, archives, uploads of jobs."""

from skillbank.storage.entry import Entry, Progress
from skillbank.storage.storage import Storage
from skillbank.storage.uri import Uri, is_remote, join, parse, show

__all__ = ["Entry", "Progress", "Storage", "Uri", "is_remote", "join", "parse", "show"]
