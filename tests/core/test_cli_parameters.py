"""Parameters of plugins on the command line: shown by `earwitness list`, and named by the option that gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from earwitness.cli.list import HELP, details, details_text, listing
from earwitness.cli.options import PARAMETER_OPTIONS
from earwitness.cli.shell import shell
from earwitness.registry import KINDS, Offer, Origin, Registry, registry
from earwitness.specs import ExplainerSpec, MetricSpec, Spec


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(shell, [str(argument) for argument in arguments], prog_name="earwitness")


def needy(step: int) -> None:
    raise AssertionError("it is never built")


# --- list KIND NAME


def test_a_name_shows_parameters_with_types_defaults_and_meaning() -> None:
    said = " ".join(run("list", "explainers", "gradcam").output.split())
    assert said.startswith("gradcam (explainer of earwitness")
    assert "needs: convolution, gradient" in said
    assert "layer str | None None Dotted name of the layer." in said
    assert "domain 'features' | 'waveform' 'features' What the map is interpolated to" in said
    assert "Give them on the command line as --param NAME=VALUE, in a suite as parameters = { NAME = VALUE }." in said


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("datasets", "folder", "folder str | PathLike[str] (required)"),
        ("datasets", "folder", "--dataset-param NAME=VALUE"),
        ("classifiers", "toy-cnn", "--classifier-param NAME=VALUE"),
        ("metrics", "mask-shape", "It takes no parameters."),
        ("explainers", "earwitness:gradcam", "gradcam (explainer of earwitness"),
    ],
)
def test_every_kind_says_what_it_takes_and_how_it_is_given(kind: str, name: str, said: str) -> None:
    shown = run("list", kind, name)
    assert shown.exit_code == 0
    assert said in " ".join(shown.output.split())


def test_json_of_a_name_is_its_entry_with_parameters() -> None:
    shown = json.loads(run("list", "datasets", "folder", "--json").stdout)
    assert list(shown) == ["datasets", "broken"]
    (entry,) = shown["datasets"]
    parameters = entry.pop("parameters")
    assert entry in listing(registry(), ["datasets"])["datasets"]
    assert [parameter["name"] for parameter in parameters] == ["folder", "rate", "duration_s", "labels"]
    assert (parameters[0]["required"], parameters[1]["required"]) == (True, False)
    assert (parameters[1]["type"], parameters[1]["default"]) == ("int", 44100)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("explainers", "gradcan"), 1, "Did you mean 'gradcam'?"),
        (("commands", "explain"), 2, "`earwitness explain --help`"),
        (("gradcam",), 2, "is not one of"),
    ],
)
def test_a_name_that_cannot_be_shown_is_refused_with_the_way_out(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    shown = run("list", *arguments)
    assert shown.exit_code == code
    assert said in shown.stderr


def test_of_two_that_share_a_name_each_is_shown_by_its_full_one() -> None:
    found = Registry([])
    for distribution, summary in (("one", "First."), ("two", "Second.")):
        spec = ExplainerSpec(name="needy", target=f"{__name__}:needy", summary=summary)
        found._offers["explainers"].append(Offer[Spec](spec, Origin(distribution, "1.0", "hooks")))
    (entry,) = details(found, "explainers", "two:needy")["explainers"]
    assert (entry["summary"], entry["collides"]) == ("Second.", True)
    assert [parameter["name"] for parameter in entry["parameters"]] == ["step"]


@pytest.mark.parametrize("width", [70, 100, 200])
def test_what_is_shown_keeps_to_the_terminal(width: int) -> None:
    for name in ("gradcam", "integrated-gradients"):
        assert max(map(len, details_text(registry(), "explainers", name, width).splitlines()[:-1])) <= width


def test_the_help_names_every_key_of_the_json() -> None:
    found = listing(registry(), [*KINDS])
    keys = {key for kind in found for entry in found[kind] for key in entry}
    keys |= {key for entry in found["metrics"] for column in entry["columns"] for key in column}
    keys |= {key for entry in found["explainers"] for key in entry["resources"]}
    (entry,) = details(registry(), "explainers", "gradcam")["explainers"]
    keys |= {"parameters", *(key for parameter in entry["parameters"] for key in parameter)}
    assert [key for key in sorted({*keys, *found}) if f'"{key}"' not in HELP] == []


def test_all_built_in_parameters_can_be_described() -> None:
    refused = {offer.spec.name for offer in registry().offers("metrics") if getattr(offer.spec, "refused", "")}
    for kind in ("explainers", "classifiers", "datasets", "metrics"):
        for offer in registry().offers(kind):
            if offer.origin.distribution == "earwitness" and offer.spec.name not in refused:
                (entry,) = details(registry(), kind, offer.qualified_name)[kind]
                json.dumps(entry)


def test_a_refused_metric_says_why() -> None:
    found = Registry([])
    spec = MetricSpec(name="bad", target=f"{__name__}:needy", summary="", refused="it is bad.")
    found._offers["metrics"].append(Offer[Spec](spec, Origin("one", "1.0", "hooks")))
    with pytest.raises(Exception, match=r"'bad' cannot be used: it is bad\."):
        details(found, "metrics", "bad")


# --- what is missing, by the option that gives it

TOY = ("--classifier", "toy-cnn")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("fit", "class-mean", "--dataset", "folder", *TOY), "Give --dataset-param folder=VALUE."),
        (
            ("fit", "class-mean", "--dataset", "mixtures", *TOY),
            "Give --dataset-param foreground=VALUE --dataset-param background=VALUE.",
        ),
        (("explain", "dog.wav", "--classifier", f"{__name__}:needy"), "Give --classifier-param step=VALUE."),
        (("explain", "dog.wav", "--classifier", "apnet"), "Give --weights FILE."),
        (
            ("study", "cross-class", "--dataset", "noisy", "--fit-param", "clips=8", *TOY),
            "Give --dataset-param clean=VALUE.",
        ),
    ],
)
def test_a_missing_parameter_is_named_by_the_option_of_this_very_command(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = run(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert done.stderr.count(said) == 1
    assert not (tmp_path / "out").exists()


def test_a_command_about_a_classifier_takes_its_parameters_by_param() -> None:
    done = run("evaluate-classifier", f"{__name__}:needy", "--dataset", "toy")
    assert done.exit_code == 1
    assert done.stderr.endswith("needs the parameter 'step'. Give --param step=VALUE.\n")


def test_a_missing_parameter_of_a_suite_is_to_be_written_there(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\n[[arenas]]\ndataset = { name = "noisy" }\nclassifier = { name = "toy-cnn" }\n'
        '[[explainers]]\nname = "saliency"\n[[metrics]]\nname = "mask-shape"\n'
    )
    done = run("bench", tmp_path / "mine.toml", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "In the suite: parameters = { clean = … }. `earwitness list datasets noisy` shows" in done.stderr


def test_the_page_that_a_missing_parameter_points_to_is_there() -> None:
    done = run("fit", "class-mean", "--dataset", "folder", *TOY, "--out", "nowhere")
    *_, command, kind, name = done.stderr.split("`")[1].split()
    assert (command, kind, name) == ("list", "datasets", "folder")
    assert "folder" in run(command, kind, name).stdout


def test_explain_and_fit_have_the_options_that_are_named() -> None:
    for command in ("explain", "fit"):
        options = run(command, "--help").output
        assert "--param " in options
        assert PARAMETER_OPTIONS["classifier"] in options
    assert PARAMETER_OPTIONS["dataset"] in run("fit", "--help").output
