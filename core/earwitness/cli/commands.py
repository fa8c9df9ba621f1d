"""A command that consists of others."""

from __future__ import annotations

from typing import Any

import click

from earwitness.cli.options import say_options
from earwitness.errors import EarwitnessError

_LONGEST = 300


class Commands(click.Group):
    """A group whose help says of each command all that its first sentence says, however long."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands."""
        rows = [(name, command.get_short_help_str(_LONGEST)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it lacks is named by its own options."""
        try:
            return super().invoke(ctx)
        except EarwitnessError as error:
            say_options(error, ctx)
            raise
