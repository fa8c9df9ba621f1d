"""The shell around all commands: finding them, global options, and how an error ends."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from earwitness.cli.context import current_registry
from earwitness.cli.options import say_options
from earwitness.errors import EarwitnessError, PluginError, nearest
from earwitness.registry import plugin_distributions, same_distribution

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells count."""


class _Refusal(click.ClickException):
    """An error that is the user's to mend: one sentence, no traceback, exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file or sys.stderr)


class _Interruption(click.ClickException):
    exit_code = INTERRUPTED

    def show(self, file: Any = None) -> None:
        click.echo(f"\n{self.message}", file=file or sys.stderr)


class Shell(click.Group):
    """A group whose commands are those of the registry. A command's module is imported when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names on offer; ``distribution:name`` where two distributions offer the same one."""
        return list(current_registry(ctx).shown_names("commands"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command.

        Raises
        ------
        PluginError
            Two distributions offer it, or it cannot be imported. (While completing: None.)
        """
        registry = current_registry(ctx)
        if not registry.named("commands", cmd_name):
            return None
        try:
            offer = registry.command(cmd_name)
            command = offer.spec.load()
            if not isinstance(command, click.Command):
                raise PluginError(f"{offer.qualified_name} must be a click.Command, got {command!r}.")
        except PluginError:
            if ctx.resilient_parsing:
                return None
            raise
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command to run; an unknown one is a usage error that names the nearest."""
        registry = current_registry(ctx)
        if not ctx.resilient_parsing and not registry.named("commands", args[0]):
            try:
                registry.command(args[0])
            except PluginError as error:
                ctx.fail(str(error))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands from their specs, by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, offer in current_registry(ctx).shown_names("commands").items():
            sections.setdefault(getattr(offer.spec, "section", "Commands"), []).append((name, offer.spec.summary))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands from their specs."""
        names = current_registry(ctx).shown_names("commands")
        found = [CompletionItem(n, help=o.spec.summary) for n, o in names.items() if n.startswith(incomplete)]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors that earwitness raises on purpose end in one sentence."""
        try:
            return super().invoke(ctx)
        except EarwitnessError as error:
            say_options(error, ctx)
            if ctx.params.get("traceback"):
                raise
            raise _Refusal(" ".join([str(error), *getattr(error, "__notes__", ())])) from error
        except KeyboardInterrupt as error:
            raise _Interruption("Stopped.") from error


def _check_distributions(ctx: click.Context, _option: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """A misspelt distribution would leave the plugin on without a word."""
    known = plugin_distributions()
    for name in names:
        if not any(same_distribution(name, distribution) for distribution in known):
            raise click.BadParameter(f"No installed distribution {name!r} has plugins. {nearest(name, known)}", ctx=ctx)
    return names


@click.group(
    cls=Shell,
    name="earwitness",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  earwitness explain dog.wav          hear what made the packaged classifier say "dog"
  earwitness list explainers          which methods there are, and who offers them

\b
`earwitness COMMAND --help` explains a command. Where two distributions offer the same name, say
DISTRIBUTION:NAME. EARWITNESS_PLUGINS=a,b lets only these distributions in.
Completion: eval "$(_EARWITNESS_COMPLETE=bash_source earwitness)"  (or zsh_source, fish_source)""",
)
@click.version_option(package_name="earwitness", message="%(prog)s %(version)s")
@click.option(
    "--no-plugin",
    metavar="DIST",
    multiple=True,
    is_eager=True,
    callback=_check_distributions,
    help="Leave out the plugins of an installed distribution. May be repeated.",
)
@click.option(
    "--traceback",
    is_flag=True,
    envvar="EARWITNESS_TRACEBACK",
    help="Show where an error came from (or set EARWITNESS_TRACEBACK=1).",
)
def shell(no_plugin: tuple[str, ...], traceback: bool) -> None:
    """See, hear and measure why an audio classifier decided what it decided.

    Each explanation is played back, tested against the classifier, and every method that explains is ranked.
    """


def main() -> NoReturn:
    """The console script. Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 stopped with Ctrl-C."""
    # Factories such as my_models:make may lie in the current folder; behind everything installed, so that no file there
    # can stand in for a library.
    sys.path.append("")
    shell(prog_name="earwitness")
    raise AssertionError("click ends the process")  # pragma: no cover
