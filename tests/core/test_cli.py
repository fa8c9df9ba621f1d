"""The shell: it teaches, lists, and ends errors in one sentence with the right exit code."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from earwitness import hookimpl, hookspecs
from earwitness.cli import context as cli_context
from earwitness.cli import current_registry
from earwitness.cli.commands import Commands
from earwitness.cli.list import table
from earwitness.cli.shell import shell
from earwitness.errors import AudioError, PluginError
from earwitness.registry import KINDS, Offer, Origin, Plugin, Registry, installed_plugins, registry
from earwitness.specs import CommandSpec, ExplainerSpec, MetricSpec, Spec

TESTS = Path(__file__).parents[1]
RAN: list[str] = []


def options_of(command: click.Command, context: click.Context, name: str) -> Iterator[tuple[str, click.Option]]:
    """Every option of a command and, for a group, of those below it."""
    yield from ((name, option) for option in command.params if isinstance(option, click.Option))
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            below = command.get_command(context, each)
            assert below is not None
            yield from options_of(below, context, f"{name} {each}")


@click.command()
def refuses() -> None:
    raise AudioError("The recording is empty. Record something.")


@click.command()
def interrupted() -> None:
    raise KeyboardInterrupt


@click.command()
def fails() -> None:
    raise ZeroDivisionError("a bug")


@click.command()
@click.option("--times", type=int, required=True)
def works(times: int) -> None:
    RAN.append(f"worked {times} times, {len(current_registry().offers('commands'))} commands")


not_a_command = "a string"

ORIGIN = Origin("fake", "9.9", "fake_hooks")


def plugins() -> Iterator[Plugin]:
    """Core's own, one with the commands above, and a broken one."""
    targets = ("refuses", "interrupted", "fails", "works", "not_a_command")
    here = types.ModuleType("fake_targets")
    for name in targets:
        setattr(here, name, globals()[name])
    sys.modules["fake_targets"] = here
    module = types.ModuleType("fake_hooks")

    @hookimpl
    def earwitness_commands() -> Iterator[CommandSpec]:
        for name in targets:
            yield CommandSpec(name=name.replace("_", "-"), target=f"fake_targets:{name}", summary=f"It {name}.")
        yield CommandSpec(name="absent", target="module_that_is_not_there:x", summary="Not there.", section="More")

    def broken() -> object:
        raise ImportError("needs something\nthat is not there")

    module.earwitness_commands = earwitness_commands  # type: ignore[attr-defined]
    yield next(iter(installed_plugins()))
    yield Plugin(ORIGIN, "main", lambda: module)
    yield Plugin(Origin("cracked", "0.7", "cracked_hooks"), "main", broken)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the shell with the plugins above."""
    found = Registry(plugins())
    monkeypatch.setattr(cli_context, "registry", lambda switched_off: found)
    monkeypatch.delenv("EARWITNESS_TRACEBACK", raising=False)
    return lambda *arguments: CliRunner().invoke(shell, arguments, prog_name="earwitness")


def earwitness(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the real console script's code in a process of its own."""
    code = "import sys; from earwitness.cli import main; sys.exit(main())"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, env=env
    )


# --- help


def test_the_help_says_what_it_is_lists_the_commands_and_has_examples() -> None:
    done = earwitness("--help")
    assert done.returncode == 0
    assert "why an audio classifier decided what it decided" in done.stdout
    assert "earwitness explain dog.wav" in done.stdout
    for offer in registry().offers("commands"):
        assert f"\n  {offer.spec.name} " in done.stdout


def test_the_help_reads_specs_only(run: Callable[..., Result]) -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "It works." in result.output
    assert "Not there." in result.output  # its module cannot be imported
    assert "More:" in result.output  # a section of its own


def test_completion_reads_specs_only() -> None:
    done = earwitness("x", _EARWITNESS_COMPLETE="bash_complete", COMP_WORDS="earwitness leade", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,leaderboard"]


def test_no_arguments_show_the_help(run: Callable[..., Result]) -> None:
    assert "Commands:" in run().output


def test_the_version_is_that_of_the_distribution() -> None:
    own = next(iter(installed_plugins())).origin.version
    assert earwitness("--version").stdout == f"earwitness {own}\n"


def test_every_command_of_ours_has_a_help_that_teaches() -> None:
    """Its own text, not only click's frame, and an example where it takes arguments."""
    for offer in registry().offers("commands"):
        done = earwitness(offer.spec.name, "--help")
        assert done.returncode == 0, done.stderr
        assert f"Usage: earwitness {offer.spec.name}" in done.stdout
        assert f"earwitness {offer.spec.name}" in done.stdout.partition("\n")[2], f"{offer.spec.name} has no example"


# --- exit codes


def test_an_earwitness_error_is_one_sentence_on_stderr_and_exit_code_1(run: Callable[..., Result]) -> None:
    result = run("refuses")
    assert (result.exit_code, result.stderr) == (1, "error: The recording is empty. Record something.\n")
    assert result.stdout == ""


def test_traceback_shows_where_an_error_came_from(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(run("--traceback", "refuses").exception, AudioError)
    monkeypatch.setenv("EARWITNESS_TRACEBACK", "1")
    assert isinstance(run("refuses").exception, AudioError)


def test_a_bug_is_not_dressed_up_as_a_refusal(run: Callable[..., Result]) -> None:
    assert isinstance(run("fails").exception, ZeroDivisionError)


def test_ctrl_c_ends_calmly_with_130(run: Callable[..., Result]) -> None:
    result = run("interrupted")
    assert (result.exit_code, result.stderr.strip()) == (130, "Stopped.")


def test_wrong_usage_keeps_exit_code_2(run: Callable[..., Result]) -> None:
    assert run("works").exit_code == 2
    assert run("works", "--tiems", "3").exit_code == 2
    assert run("--nonsense").exit_code == 2
    assert run("list", "explainer").exit_code == 2


def test_an_unknown_command_is_wrong_usage_and_names_the_nearest_and_the_broken(run: Callable[..., Result]) -> None:
    result = run("wroks")
    assert result.exit_code == 2
    assert "There is no command 'wroks'. Did you mean 'works'?" in result.stderr
    assert "cracked 0.7 (ImportError: needs something that is not there)" in result.stderr


def test_a_command_that_cannot_be_imported_is_refused_in_use(run: Callable[..., Result]) -> None:
    result = run("absent")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: command 'absent': importing 'module_that_is_not_there' failed")


def test_a_command_that_is_none_is_refused(run: Callable[..., Result]) -> None:
    result = run("not-a-command")
    assert result.exit_code == 1
    assert "fake:not-a-command must be a click.Command, got 'a string'" in result.stderr


def test_a_closed_pipe_is_no_error_message() -> None:
    code = "import sys; from earwitness.cli import main; sys.exit(main())"
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, "list"]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, check=False, env=env)
    assert done.stderr == ""


# --- global options


def test_commands_see_the_registry_of_the_invocation(run: Callable[..., Result]) -> None:
    RAN.clear()
    assert run("works", "--times", "2").exit_code == 0
    assert RAN == ["worked 2 times, 9 commands"]


def test_a_command_can_be_called_by_its_full_name(run: Callable[..., Result]) -> None:
    RAN.clear()
    assert run("fake:works", "--times", "3").exit_code == 0
    assert RAN[0].startswith("worked 3 times")


def test_no_plugin_leaves_a_distribution_out_but_never_core() -> None:
    done = earwitness("--no-plugin", "earwitness", "list", "--json")
    listed = json.loads(done.stdout)
    assert listed["explainers"] == []
    assert [entry["name"] for entry in listed["commands"]] == ["explain", "fit", "list"]


def test_a_misspelt_no_plugin_is_wrong_usage() -> None:
    done = earwitness("--no-plugin", "earwitnes", "list")
    assert done.returncode == 2
    assert "No installed distribution 'earwitnes' has plugins. Did you mean 'earwitness'?" in done.stderr


# --- list


def test_list_succeeds_with_a_broken_plugin_and_names_it_at_the_end(run: Callable[..., Result]) -> None:
    result = run("list")
    assert result.exit_code == 0
    for kind in KINDS:
        assert kind.upper() in result.output
    end = " ".join(result.output.partition("BROKEN")[2].split())
    assert "cracked 0.7, module cracked_hooks: ImportError: needs something that is not there" in end


def test_list_of_one_kind_shows_that_kind_only(run: Callable[..., Result]) -> None:
    output = run("list", "commands").output
    assert "COMMANDS" in output
    assert "EXPLAINERS" not in output
    assert "fake 9.9" in output


def test_json_has_the_documented_shape() -> None:
    listed = json.loads(earwitness("list", "--json").stdout)
    assert list(listed) == [*KINDS, "broken"]
    common = {"name", "qualified_name", "collides", "distribution", "version", "summary", "target"}
    more = {
        "explainers": {"paper", "scope", "needs", "resources", "api"},
        "metrics": {"metric_version", "paper", "columns", "needs", "refused", "attribution_only", "api"},
        "classifiers": {"paper", "retrain"},
        "datasets": {"paper", "licence"},
        "commands": {"section"},
    }
    for kind, extra in more.items():
        assert listed[kind], kind
        for entry in listed[kind]:
            assert set(entry) == common | extra
    assert set(listed["metrics"][0]["columns"][0]) == {"name", "direction", "aggregate", "headline", "summary"}


def test_json_of_one_kind_has_it_and_the_broken_ones(run: Callable[..., Result]) -> None:
    listed = json.loads(run("list", "metrics", "--json").stdout)
    assert listed == {
        "metrics": [],
        "broken": [
            {
                "distribution": "cracked",
                "version": "0.7",
                "module": "cracked_hooks",
                "reason": "ImportError: needs something that is not there",
            }
        ],
    }


@pytest.mark.parametrize("width", [40, 70, 100, 200])
def test_a_table_keeps_to_the_terminal_and_loses_no_word(width: int) -> None:
    text = " ".join(f"word{number}" for number in range(30))
    found = Registry([])
    found._offers["metrics"].append(Offer[Spec](MetricSpec(name="short", target="a:b", summary=text), ORIGIN))
    lines = table(found, "metrics", width).splitlines()
    assert max(map(len, lines)) <= width
    assert [word for line in lines for word in line.split() if word.startswith("word")] == text.split()


def test_a_table_shows_scope_and_needs() -> None:
    found = Registry([])
    spec = ExplainerSpec(
        name="e", target="a:b", summary="S.", scope="control", needs=frozenset({"gradient", "convolution"})
    )
    found._offers["explainers"].append(Offer[Spec](spec, ORIGIN))
    assert "e     fake 9.9  control  convolution, gradient  S." in table(found, "explainers", 120)


def test_members_of_a_family_share_a_line_where_they_agree() -> None:
    found = Registry([])
    for name, more in (
        ("other:Big", {}),
        ("other:Small", {}),
        ("other:Odd", {"needs": frozenset({"sources"})}),
        ("other:Bad", {"refused": "it is bad."}),
        ("own", {}),
    ):
        spec = MetricSpec(name=name, target="a:b", summary="A line.", **more)  # type: ignore[arg-type]
        found._offers["metrics"].append(Offer[Spec](spec, ORIGIN))
    assert [" ".join(line.split()) for line in table(found, "metrics", 120).splitlines()[2:]] == [
        "own fake 9.9 A line.",
        "other:NAME fake 9.9 refused: Bad",
        "other:NAME fake 9.9 Big, Small",
        "other:NAME fake 9.9 sources Odd",
    ]


# --- promises about all hooks and all specs


def hook_names() -> list[str]:
    return sorted(name for name, value in vars(hookspecs).items() if hasattr(value, "earwitness_spec"))


def test_every_kind_has_its_hook() -> None:
    assert hook_names() == sorted(f"earwitness_{kind}" for kind in KINDS)


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(hookspecs, name))
    root = TESTS.parent
    pages = [root / "README.md", TESTS / "acme_plugin" / "README.md", *(root / "docs").glob("**/*.md")]
    assert any(name in page.read_text(encoding="utf-8") for page in pages if page.exists()), f"{name} is on no page"


@pytest.mark.parametrize("name", hook_names())
def test_every_hook_is_used_by_at_least_one_test(name: str) -> None:
    """By the foreign distribution that is really installed, whose offers ``test_acme_plugin`` looks for."""
    assert f"def {name}()" in (TESTS / "acme_plugin" / "acme_hooks.py").read_text(encoding="utf-8")


def built_in_offers() -> list[Offer[Spec]]:
    found = Registry(plugin for plugin in installed_plugins() if plugin.origin.distribution == "earwitness")
    assert found.broken == []
    return [offer for kind in KINDS for offer in found.offers(kind)]


@pytest.mark.parametrize("offer", built_in_offers(), ids=lambda offer: f"{offer.spec.kind}-{offer.spec.name}")
def test_every_built_in_target_can_be_imported_or_is_refused_with_a_reason(offer: Offer[Spec]) -> None:
    if isinstance(offer.spec, MetricSpec) and offer.spec.refused:
        with pytest.raises(PluginError, match=re.escape(offer.spec.refused)):
            offer.spec.load()
        return
    target = offer.spec.load()
    assert isinstance(target, click.Command) if isinstance(offer.spec, CommandSpec) else callable(target)


def test_a_group_says_of_each_command_all_of_its_first_sentence() -> None:
    long = "Do explanations change when the classifier forgets what it has learnt, and which of them do not at all?"
    group = Commands("group", commands=[click.Command("one", help=f"{long}\n\nMore.")])
    said = " ".join(CliRunner().invoke(group, ["--help"]).output.split())
    assert long in said
    assert "More." not in said


def test_every_option_of_every_command_says_what_it_is() -> None:
    options = [*options_of(shell, click.Context(shell), "earwitness")]
    assert len({name for name, _ in options}) > 20
    assert [f"{name} {option.opts[0]}" for name, option in options if not option.help] == []
