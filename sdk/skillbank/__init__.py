"""Light part of the bank: specs, schemas, jobs, storage and launchers. Imports neither torch nor a command line."""

from skillbank._version import __version__

__all__ = ["__version__"]
