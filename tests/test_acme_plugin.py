"""A foreign distribution, really installed: listed, guarded, and used by its full name where names collide."""

from __future__ import annotations

from pathlib import Path

import pytest

from acme import AcmeVenv
from earwitness.audio.files import write_audio
from earwitness_bench.datasets.toy import Toy


def test_what_a_foreign_distribution_offers_is_listed_with_its_name_and_version(acme_venv: AcmeVenv) -> None:
    listed = acme_venv.json("list")
    (midband,) = (entry for entry in listed["explainers"] if entry["name"] == "acme-midband")
    assert (midband["distribution"], midband["version"]) == ("acme-earwitness", "1.2.3")
    assert (midband["scope"], midband["paper"]) == ("post-hoc", "Acme Research Notes 1, 2024")
    (roughness,) = (entry for entry in listed["metrics"] if entry["name"] == "acme-roughness")
    assert [column["name"] for column in roughness["columns"]] == ["roughness_frequency", "roughness_time"]
    assert roughness["version"] == "1.2.3"
    assert roughness["metric_version"] == 1


def test_the_built_ins_stay_when_a_plugin_is_broken_and_the_broken_entry_is_named(acme_venv: AcmeVenv) -> None:
    done = acme_venv.earwitness("list")
    assert done.returncode == 0
    assert "integrated-gradients" in done.stdout
    after = " ".join(done.stdout.partition("BROKEN")[2].split())
    assert "acme-earwitness 1.2.3, module acme_broken: ModuleNotFoundError" in after
    assert "acme_dependency_that_does_not_exist" in after


def test_a_hook_that_raises_costs_only_itself(acme_venv: AcmeVenv) -> None:
    listed = acme_venv.json("list")
    reasons = [entry["reason"] for entry in listed["broken"] if entry["module"] == "acme_hooks"]
    assert reasons == ["earwitness_datasets: RuntimeError: the index of data sets is damaged"]
    assert "acme-first" in {entry["name"] for entry in listed["datasets"]}
    assert "acme-hello" in {entry["name"] for entry in listed["commands"]}


def test_colliding_names_are_shown_in_full(acme_venv: AcmeVenv) -> None:
    listed = acme_venv.json("list", "explainers")
    colliding = {entry["qualified_name"] for entry in listed["explainers"] if entry["collides"]}
    assert colliding == {"earwitness:saliency", "acme-earwitness:saliency"}
    names = {line.split()[0] for line in acme_venv.earwitness("list", "explainers").stdout.splitlines() if line.strip()}
    assert {"earwitness:saliency", "acme-earwitness:saliency"} <= names
    assert "saliency" not in names


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("earwitness:saliency", "earwitness_plugins.gradients.saliency:Saliency"),
        ("acme-earwitness:saliency", "acme_methods:Midband"),
        ("acme-midband", "acme_methods:Midband"),
    ],
)
def test_a_full_name_settles_a_collision(acme_venv: AcmeVenv, name: str, answer: str) -> None:
    code = f"from earwitness.registry import registry; print(registry().explainer({name!r}).spec.target)"
    done = acme_venv.run(acme_venv.python, "-c", code)
    assert done.stdout.strip() == answer, done.stderr


def test_a_bare_colliding_name_is_refused_and_both_are_named(acme_venv: AcmeVenv) -> None:
    code = "from earwitness.registry import registry; registry().explainer('saliency')"
    done = acme_venv.run(acme_venv.python, "-c", code)
    assert done.returncode == 1
    assert "acme-earwitness:saliency and earwitness:saliency" in done.stderr


def test_a_foreign_command_runs_and_is_in_the_help(acme_venv: AcmeVenv) -> None:
    assert acme_venv.json("acme-hello") == ["acme-midband", "saliency"]
    help_text = acme_venv.earwitness("--help").stdout
    assert "acme-hello" in help_text
    assert "Says who is there." in help_text


def test_a_spec_without_its_module_is_listed_and_refused_in_use(acme_venv: AcmeVenv) -> None:
    assert "acme-missing" in {entry["name"] for entry in acme_venv.json("list", "classifiers")["classifiers"]}
    code = "from earwitness.registry import registry; registry().classifier('acme-missing').spec.load()"
    done = acme_venv.run(acme_venv.python, "-c", code)
    assert done.returncode == 1
    assert "importing 'acme_not_there' failed with ModuleNotFoundError" in done.stderr


def test_no_plugin_switches_the_distribution_off(acme_venv: AcmeVenv) -> None:
    listed = acme_venv.json("--no-plugin", "Acme_Earwitness", "list")
    assert listed["broken"] == []
    assert {entry["distribution"] for entry in listed["explainers"]} == {"earwitness"}
    assert "saliency" in {entry["name"] for entry in listed["explainers"] if not entry["collides"]}
    done = acme_venv.earwitness("--no-plugin", "acme-earwitness", "acme-hello")
    assert done.returncode == 2
    assert "There is no command 'acme-hello'" in done.stderr


def test_the_environment_variable_lets_only_named_distributions_in(acme_venv: AcmeVenv) -> None:
    without = acme_venv.earwitness("list", env={"EARWITNESS_PLUGINS": "another-one"}).stdout
    assert "acme" not in without
    assert "integrated-gradients" in without
    assert "acme-midband" in acme_venv.earwitness("list", env={"EARWITNESS_PLUGINS": "acme-earwitness"}).stdout


def test_an_unknown_command_names_the_nearest_and_what_is_broken(acme_venv: AcmeVenv) -> None:
    done = acme_venv.earwitness("acme-helo")
    assert done.returncode == 2
    assert "Did you mean 'acme-hello'?" in done.stderr
    assert "acme-earwitness 1.2.3" in done.stderr


def test_listing_with_a_broken_plugin_leaves_torch_unimported(acme_venv: AcmeVenv) -> None:
    code = (
        "import sys; from earwitness.cli import shell\n"
        "shell.shell(['list'], prog_name='earwitness', standalone_mode=False)\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = acme_venv.run(acme_venv.python, "-c", code)
    assert done.stderr.strip() == "False"
    assert "acme_broken" in done.stdout


SUITE = """
name = "acme"
[[arenas]]
dataset = { name = "toy", parameters = { split = "test", clips = 4 } }
classifier = { name = "toy-cnn" }
[[explainers]]
name = "acme-midband"
parameters = { high_hz = 2000.0 }
[[explainers]]
name = "earwitness:saliency"
[[metrics]]
name = "acme-roughness"
[[metrics]]
name = "own-mask"
"""


def test_a_foreign_method_and_metric_are_scored_and_ranked_beside_the_built_ins(
    acme_venv: AcmeVenv, tmp_path: Path
) -> None:
    (tmp_path / "acme.toml").write_text(SUITE)
    done = acme_venv.earwitness("bench", tmp_path / "acme.toml", "--out", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    (table,) = acme_venv.json("leaderboard", tmp_path / "results")["tables"]
    standings = {line["explainer"]: line for line in table["standings"]}
    ours = standings["acme-midband (high_hz=2000.0)"]
    assert 0 < ours["values"]["roughness_frequency"] < 1
    assert ours["values"]["roughness_time"] == 0  # a band is the same in every frame
    assert standings["all-ones"]["values"]["roughness_frequency"] == 0
    assert ours["values"]["FF"] is not None


def test_a_foreign_method_explains_a_recording(acme_venv: AcmeVenv, tmp_path: Path) -> None:
    clip = Toy(split="test", clips=1)[0]
    write_audio(tmp_path / "toy.wav", clip.waveform, clip.rate)
    done = acme_venv.earwitness(
        *("explain", tmp_path / "toy.wav", "--classifier", "toy-cnn", "--explainer", "acme-midband"),
        *("--out", tmp_path / "out"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "toy" / "heard.wav").stat().st_size > 16000
