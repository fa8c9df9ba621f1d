"""`earwitness explain`: what is handled and said, what is answered honestly, and what is refused."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import earwitness
from earwitness.cli.shell import shell
from earwitness_bench.datasets.toy import Toy

RATE = 16000


def toy_samples() -> np.ndarray:
    return Toy(split="test", clips=1)[0].waveform.numpy()


def explain(*arguments: str | Path) -> Result:
    fast = ("--classifier", "toy-cnn", "--explainer", "saliency")
    return CliRunner().invoke(shell, ["explain", *map(str, arguments), *fast])


@pytest.fixture
def good(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "good.wav", toy_samples(), RATE)
    return tmp_path / "good.wav"


def empty(path: Path) -> None:
    path.touch()


def with_nan(path: Path) -> None:
    samples = toy_samples().copy()
    samples[100] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def with_infinity(path: Path) -> None:
    samples = toy_samples().copy()
    samples[-1] = np.inf
    soundfile.write(path, samples, RATE, subtype="FLOAT")


def shorter_than_a_frame(path: Path) -> None:
    soundfile.write(path, toy_samples()[:200], RATE)


def truncated(path: Path) -> None:
    soundfile.write(path, toy_samples(), RATE)
    path.write_bytes(path.read_bytes()[:20000])


def no_sound(path: Path) -> None:
    path.write_text("this is a letter, not a sound\n" * 50)


def a_directory(path: Path) -> None:
    path.mkdir()


def nothing(path: Path) -> None:
    """There is no such file."""


REFUSED: list[tuple[Callable[[Path], None], str]] = [
    (empty, "is empty"),
    (with_nan, "NaN or infinite"),
    (with_infinity, "NaN or infinite"),
    (shorter_than_a_frame, "needs at least 30 ms"),
    (truncated, "is truncated"),
    (no_sound, "not a sound file"),
    (a_directory, "is a directory"),
    (nothing, "There is no file"),
]


@pytest.mark.parametrize(("make", "said"), REFUSED, ids=[make.__name__ for make, _ in REFUSED])
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence_and_the_others_are_explained(
    make: Callable[[Path], None], said: str, tmp_path: Path, good: Path
) -> None:
    make(tmp_path / "bad.wav")
    done = explain(tmp_path / "bad.wav", good, "--out", tmp_path / "out")
    assert done.exit_code == 1
    refusals = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(refusals) == 1
    assert said in refusals[0]
    assert "Traceback" not in done.output
    assert (tmp_path / "out" / "good" / "heard.wav").exists()
    assert not (tmp_path / "out" / "bad" / "heard.wav").exists()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, good: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = explain(good, "--out", tmp_path / "file")
    assert done.exit_code == 1
    assert "Cannot write to the output folder" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--label", "clas1"), "Did you mean 'class1'"),
        (("--param", "domein=waveform"), "Did you mean 'domain'"),
        (("--rule", "energi(0.3)"), "Did you mean 'energy'"),
        (("--rule", "energy(30)"), "between 0 and 1"),
        (("--checkpoint", "nowhere"), "no fitted explainer"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_nearest(arguments: tuple[str, str], said: str, good: Path) -> None:
    done = explain(good, *arguments, "--out", good.parent / "out")
    assert done.exit_code == 1
    assert said in done.stderr


def test_weights_of_another_network_are_refused(tmp_path: Path, good: Path) -> None:
    save_file({"weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    done = explain(good, "--weights", tmp_path / "other.safetensors", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "another network" in done.stderr


class Trap:
    """A pickle that would write a file if it were executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".safetensors"])
def test_a_pickle_with_code_in_it_is_refused_and_never_executed(suffix: str, tmp_path: Path, good: Path) -> None:
    sprung = tmp_path / "sprung"
    (tmp_path / f"weights{suffix}").write_bytes(pickle.dumps(Trap(sprung)))
    done = explain(good, "--weights", tmp_path / f"weights{suffix}", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "not executed" in done.stderr
    assert not sprung.exists()


@pytest.mark.parametrize("level", [0.0, 0.3])
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_silence_and_a_constant_are_answered_with_nothing_to_hear(level: float, rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "still.wav", np.full(rate, level), rate)
    done = explain(tmp_path / "still.wav", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "nothing to hear" in done.stdout
    document = json.loads((tmp_path / "out" / "still" / "explanation.json").read_text())
    assert document["status"] == "nothing to hear"
    assert document["verdict"] is None
    assert document["label"] is None


def test_a_clipped_recording_is_explained_and_it_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "loud.wav", np.clip(30 * toy_samples(), -1, 1), RATE)
    done = explain(tmp_path / "loud.wav", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "clipped:" in done.stdout


def test_json_is_all_there_is_on_standard_output_also_when_a_file_fails(tmp_path: Path, good: Path) -> None:
    done = explain(good, tmp_path / "missing.wav", "--json", "--out", tmp_path / "out")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["failed"] == 1
    explained, failed = document["explanations"]
    assert 0 <= explained["verdict"]["p_heard"] <= 1
    assert "There is no file" in failed["error"]


def test_files_of_one_name_get_folders_of_their_own(tmp_path: Path, good: Path) -> None:
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other" / "good.wav", toy_samples(), RATE)
    assert explain(good, tmp_path / "other" / "good.wav", "--out", tmp_path / "out").exit_code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"good", "good-2"}


@pytest.fixture
def namesake(tmp_path: Path) -> Path:
    """Another recording that is called good.wav too."""
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other" / "good.wav", toy_samples()[::-1], RATE)
    return tmp_path / "other" / "good.wav"


def explained_in(out: Path) -> dict[str, str]:
    """Folder to the recording that its explanation is of."""
    documents = {path.parent.name: json.loads(path.read_text()) for path in out.glob("*/explanation.json")}
    return {folder: document["file"] for folder, document in documents.items()}


def test_a_recording_replaces_its_own_explanation_and_never_that_of_a_namesake(
    tmp_path: Path, good: Path, namesake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert explain(good, "--out", out).exit_code == 0
    first = (out / "good" / "heard.wav").read_bytes()
    second = explain(namesake, "--out", out)
    assert f"{out / 'good'} holds another recording of that name, so this one is in {out / 'good-2'}" in second.stdout
    assert (out / "good" / "heard.wav").read_bytes() == first
    assert explained_in(out) == {"good": str(good), "good-2": str(namesake)}
    monkeypatch.chdir(namesake.parent)  # the same recordings, called otherwise and in another order
    again = explain("good.wav", "../good.wav", "--out", out, "--json")
    assert [Path(entry["folder"]).name for entry in json.loads(again.stdout)["explanations"]] == ["good-2", "good"]
    assert explained_in(out) == {"good": "../good.wav", "good-2": "good.wav"}


def test_a_namesake_gets_a_folder_of_its_own_in_python_too(
    tmp_path: Path, good: Path, namesake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (good, namesake):
        earwitness.explain(path, classifier="toy-cnn", explainer="saliency")
    assert explained_in(tmp_path / "earwitness-out") == {"good": str(good), "good-2": str(namesake)}


def test_a_method_that_must_be_fitted_is_fitted_by_command_and_used(tmp_path: Path, good: Path) -> None:
    fitting = ["fit", "class-mean", "--dataset", "toy", "--dataset-param", "clips=16", "--classifier", "toy-cnn"]
    done = CliRunner().invoke(shell, [*fitting, "--out", str(tmp_path / "fitted"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["clips"] == 16
    arguments = ["--classifier", "toy-cnn", "--explainer", "class-mean", "--out", str(tmp_path / "out")]
    without = CliRunner().invoke(shell, ["explain", str(good), *arguments])
    assert without.exit_code == 1
    assert "must be fitted first" in without.stderr
    used = CliRunner().invoke(shell, ["explain", str(good), *arguments, "--checkpoint", str(tmp_path / "fitted")])
    assert used.exit_code == 0, used.output
