"""``earwitness learn-patterns``: a folder to look at and to listen to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from click.testing import CliRunner, Result

from earwitness.cli.shell import shell
from earwitness_plugins.sparse_nmf import publication
from earwitness_plugins.sparse_nmf.dictionary import Dictionary

ARGUMENTS = ("--dataset", "toy", "--dataset-param", "clips=4", "--stft", "16000", "512", "256")


def learn(*arguments: object, data: tuple[str, ...] = ARGUMENTS) -> Result:
    return CliRunner().invoke(shell, ["learn-patterns", *data, *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learnt") / "patterns"
    done = learn("--patterns", 4, "--out", out)
    assert done.exit_code == 0, done.output
    assert "4 patterns from 4 clips" in done.stdout
    return out


def test_each_pattern_has_a_picture_and_a_sound(folder: Path) -> None:
    document = json.loads((folder / "patterns.json").read_text())
    dictionary = Dictionary.load(folder)
    assert len(dictionary) == len(document["patterns"]) == 4
    assert document["checksum"] == dictionary.checksum
    assert (folder / "patterns.png").read_bytes().startswith(b"\x89PNG")
    for pattern in document["patterns"]:
        assert (folder / pattern["picture"]).read_bytes().startswith(b"\x89PNG")
        samples, rate = soundfile.read(folder / pattern["sound"])
        assert rate == 16000
        assert abs(samples).max() == pytest.approx(0.5)
        assert pattern["clip"].startswith("toy-0-")
    assert not (folder / ".unfinished").exists()
    assert len({(folder / pattern["picture"]).read_bytes() for pattern in document["patterns"]}) == 4


def test_the_same_command_again_changes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = learn("--patterns", 4, "--out", folder, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["checksum"] == Dictionary.load(folder).checksum
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("other", [("--patterns", 5), ("--patterns", 4, "--seed", 1)])
def test_other_settings_are_refused_in_the_same_folder(folder: Path, other: tuple[object, ...]) -> None:
    done = learn(*other, "--out", folder)
    assert done.exit_code == 1
    assert "other settings" in done.stderr


def test_a_killed_command_goes_on_and_ends_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publication, "strongest_places", killed)
        assert learn("--patterns", 4, "--out", tmp_path / "out").exit_code == 130
    assert (tmp_path / "out" / ".unfinished").exists()
    assert learn("--patterns", 4, "--out", tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out" / ".unfinished").exists()
    for path in folder.rglob("*.*"):
        assert (tmp_path / "out" / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


def test_classes_are_learnt_one_by_one(tmp_path: Path) -> None:
    params = ("--class-param", "noise_patterns=0", "--class-param", "patterns_per_class=2")
    done = learn("--class-wise", *params, "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    labels = [pattern["label"] for pattern in json.loads(done.stdout)["patterns"]]
    assert labels == ["class1", "class1", "class2", "class2"]


def test_the_patterns_are_for_the_listening_stft_of_a_classifier(tmp_path: Path) -> None:
    done = learn("--patterns", 2, "--out", tmp_path, "--classifier", "toy-cnn", data=ARGUMENTS[:4])
    assert done.exit_code == 0, done.output
    assert (Dictionary.load(tmp_path).n_fft, Dictionary.load(tmp_path).hop_length) == (480, 240)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--patterns", "100000"), "cannot be learnt from"),
        (("--patterns", "0"), "n_patterns=0"),
        (("--sparsity", "-1"), "must be a number >= 0"),
        (("--class-param", "noise_patterns=0"), "say --class-wise too"),
        (("--class-wise", "--class-param", "noise_paterns=0"), "Did you mean 'noise_patterns'"),
        (("--class-wise", "--patterns", "5"), "patterns_per_class"),
        (("--class-wise",), "noise_patterns=0"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = learn(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_a_folder_with_another_dictionary_is_left_alone(folder: Path, tmp_path: Path) -> None:
    Dictionary.load(folder).save(tmp_path)
    done = learn("--patterns", 4, "--out", tmp_path)
    assert done.exit_code == 1
    assert "another origin" in done.stderr
