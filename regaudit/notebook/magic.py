"""``%load_ext regaudit.notebook.magic``, then ``%regaudit HOST [PATTERN ...]`` reads a registry.

What was read is shown, and is there for the next cells as ``snapshot``; ``registry`` is what it was
read from. For a registry that needs a user name, plain http or a certificate of its own, write
``ra.Registry(...)`` and ``ra.collect(...)``.
"""

from __future__ import annotations

import shlex
from typing import Any

from IPython.core.error import UsageError as MagicUsageError
from IPython.core.magic import Magics, line_magic, magics_class

from regaudit.client.registry import Registry
from regaudit.inventory.collect import collect
from regaudit.inventory.snapshot import Snapshot


@magics_class
class RegauditMagics(Magics):
    """The line magic ``%regaudit``."""

    @line_magic
    def regaudit(self, line: str) -> Snapshot:
        """Read a registry: ``%regaudit HOST [PATTERN ...]``."""
        words = shlex.split(line)
        if not words:
            raise MagicUsageError("name a registry: %regaudit registry.example.com 'team/*'")
        registry = Registry(words[0])
        snapshot = collect(registry, *words[1:])
        if self.shell is not None:
            self.shell.user_ns.update(registry=registry, snapshot=snapshot)
        return snapshot


def load_ipython_extension(shell: Any) -> None:
    """Register the magic; ``%load_ext regaudit.notebook.magic`` calls this."""
    shell.register_magics(RegauditMagics)


__all__ = ["RegauditMagics", "load_ipython_extension"]
