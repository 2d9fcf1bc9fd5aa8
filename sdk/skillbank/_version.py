"""Version of the bank: specs, playbooks and code carry the same one."""

__version__ = "0.1.0"
