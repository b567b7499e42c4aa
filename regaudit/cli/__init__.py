"""The command line: the way from a registry to a report and to a reviewed deletion, for scripts.

Results go to stdout, progress and log to stderr. Exit 0: done as asked. Exit 1: it was not. Exit 2:
the command was not typed as it can be carried out.
"""

# Each module adds its commands to the group.
from regaudit.cli import deciding, deleting, record, seeing, trying, unattended
from regaudit.cli.front import main

__all__ = ["deciding", "deleting", "main", "record", "seeing", "trying", "unattended"]
