"""``earwitness cross-validate``: one folder, one table, whatever kind of network, and errors that help."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import apnet_toy
from earwitness.cli.shell import shell
from earwitness.parameters import parse_assignments
from earwitness_plugins.classifiers import learners
from earwitness_plugins.classifiers.cross_validate_command import cross_validate
from folded_sounds import folded_registry

ROOT = Path(__file__).parents[2]
MODEL = f"model={apnet_toy.MODEL}"
TRAINING = f"training={ ({**apnet_toy.TRAINING, 'epochs': 2}) }"
APNET = ["apnet", "--param", MODEL, "--param", TRAINING, "--dataset", "tones"]
TOY_CNN = ["toy-cnn", "--param", "epochs=1", "--dataset", "pairs", "--dataset-param", "clips=2"]


@pytest.fixture(autouse=True)
def folded(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Data sets with folds are on offer, and the number of threads is left as it was."""
    plugins, threads = folded_registry(), torch.get_num_threads()
    monkeypatch.setattr("earwitness.cli.context.registry", lambda switched_off=(): plugins)
    yield
    torch.set_num_threads(threads)


def run(*words: str, out: Path, folds: str = "1,2,3", threads: int = 1) -> Result:
    arguments = ["cross-validate", *words, "--out", str(out), "--folds", folds, "--threads", str(threads)]
    return CliRunner().invoke(shell, arguments)


def test_two_recipes_of_one_network_and_two_seeds_stand_in_one_table(tmp_path: Path) -> None:
    out = tmp_path / "cv"
    done = run(*APNET, out=out)
    assert done.exit_code == 0, done.output
    assert re.findall(r"^fold (\d): \S+% of 6 clips \(validation \S+% of 6; \S+ s\)$", done.stdout, re.M) == list("123")
    other = [*APNET, "--label", "APNet from noise", "--param", "configuration=medley-solos-db", "--only", "2", "--json"]
    done = run(*other, out=out)
    assert done.exit_code == 0, done.output
    table = json.loads(done.stdout)
    assert table == json.loads((out / "cross-validation.json").read_text())
    assert [(row["label"], row["folds_done"]) for row in table["networks"]] == [("apnet", 3), ("APNet from noise", 1)]
    assert list(table["networks"][1]["difference_to_best"]["by_fold"]) == ["2"]
    assert table["networks"][1]["settings"]["network"]["parameters"]["configuration"] == "medley-solos-db"
    done = run(*APNET, "--seed", "1", "--only", "1", "--json", out=out)
    row = next(row for row in json.loads(done.stdout)["networks"] if row["label"] == "apnet")
    assert list(row["accuracy"]["by_fold_and_seed"]["1"]) == ["0", "1"]
    assert (out / "cross-validation.csv").read_text().count("\n") == 3
    assert (out / "cross-validation.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "apnet-from-noise" / "seed-0-fold-2" / "trained" / "explainer.safetensors").exists()


def test_a_finished_command_given_again_trains_nothing_and_makes_the_table_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*TOY_CNN, "--only", "3", "--only", "1", out=tmp_path).exit_code == 0
    first = (tmp_path / "cross-validation.json").read_text()
    assert sorted(json.loads(first)["networks"][0]["accuracy"]["by_fold"]) == ["1", "3"]
    (tmp_path / "cross-validation.json").unlink()
    monkeypatch.setattr(learners, "train_on", lambda *_, **__: pytest.fail("trained again"))
    done = run(*TOY_CNN, "--only", "1", "--only", "3", out=tmp_path)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("kept before") == 2
    assert (tmp_path / "cross-validation.json").read_text() == first
    assert "8,234" in done.stdout


def test_changed_settings_are_refused_by_name(tmp_path: Path) -> None:
    assert run(*TOY_CNN, "--only", "1", out=tmp_path).exit_code == 0
    changed = [word.replace("epochs=1", "epochs=2") for word in TOY_CNN]
    done = run(*changed, "--only", "1", out=tmp_path)
    assert done.exit_code == 1
    assert "network.recipe.epochs was 1 and is 2 now" in done.stderr
    done = run(*APNET, "--label", "toy-cnn", out=tmp_path)
    assert done.exit_code == 1
    assert "with other settings" in done.stderr


def test_another_number_of_threads_is_refused_with_the_number_to_give(tmp_path: Path) -> None:
    assert run(*TOY_CNN, "--only", "1", out=tmp_path).exit_code == 0
    table = (tmp_path / "cross-validation.json").read_text()
    for fold in "12":
        done = run(*TOY_CNN, "--only", fold, out=tmp_path, threads=2)
        assert done.exit_code == 1
        assert "it was 1 and is 2 now" in done.stderr
        assert "Go on with --threads 1" in done.stderr
    assert (tmp_path / "cross-validation.json").read_text() == table
    assert run(*TOY_CNN, "--only", "1", out=tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("words", "folds", "said"),
    [
        (["toy-cn"], "1,2,3", "no classifier that explains itself, called 'toy-cn'. Did you mean 'toy-cnn'?"),
        (["lrp"], "1,2,3", "'lrp' explains other classifiers (scope post-hoc)"),
        (["toy-cnn", "--param", "epoch=1"], "1,2,3", "no setting 'epoch'. Did you mean 'epochs'?"),
        (["toy-cnn", "--param", "augmentation={'shft': True}"], "1,2,3", "Did you mean 'shift'?"),
        (["apnet", "--param", "trainin={}"], "1,2,3", "Did you mean 'training'?"),
        (["apnet", "--param", "configuration=nothing"], "1,2,3", "no configuration 'nothing'"),
        (["toy-cnn", "--dataset", "toy"], "1,2,3", "The data set 'toy' has no folds"),
        (["toy-cnn", "--dataset", "tones"], "1,2,3", "classes that the classifier does not know: ['high', 'low'"),
        (["toy-cnn"], "1,2", "A rotation needs at least three folds"),
        (["toy-cnn"], "1;2;3", "--folds are numbers with commas between"),
        (["toy-cnn", "--only", "9"], "1,2,3", "--only 9 is none of the folds 1, 2, 3"),
        (["toy-cnn", "--device", "gramophone"], "1,2,3", "The device 'gramophone' cannot be used"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do(
    tmp_path: Path, words: list[str], folds: str, said: str
) -> None:
    data = [] if "--dataset" in words else ["--dataset", "pairs"]
    done = run(*words, *data, out=tmp_path / "cv", folds=folds)
    assert done.exit_code == 1, done.output
    assert said in " ".join(done.stderr.split())
    assert not list((tmp_path / "cv").glob("**/seed-*"))


def test_the_commands_of_the_guide_are_commands() -> None:
    """They take hours: here it is only looked up that their options exist and their networks are on offer."""
    page = (ROOT / "docs" / "apnet.md").read_text()
    commands = re.findall(r"`earwitness cross-validate ([^`]*)`", page)
    assert len(commands) >= 3
    for command in commands:
        context = cross_validate.make_context("cross-validate", shlex.split(command.replace("\n", " ")))
        parameters = context.params
        learners.learner(
            parameters["name"],
            plugins=folded_registry(),
            parameters=parse_assignments(parameters["params"]),
            device="cpu",
        )
