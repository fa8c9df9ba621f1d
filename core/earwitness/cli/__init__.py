"""The command line: ``earwitness COMMAND``.

Commands are found through the registry and imported when they run, so that ``earwitness list``, ``--help`` and
completion stay quick. What a command needs of the shell is :func:`current_registry`.
"""

from __future__ import annotations

from earwitness.cli.context import current_registry
from earwitness.cli.shell import main

__all__ = ["current_registry", "main"]
