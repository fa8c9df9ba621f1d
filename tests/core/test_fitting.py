"""Fitting: one folder, checkpoints that are taken up again, and nothing loaded that belongs elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from earwitness.artifacts import load_tensors
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.clips import Clip
from earwitness.errors import CheckpointError, ConfigurationError, ExplanationError, PluginError
from earwitness.fitting import Workspace, fit, fit_facts, fitted_identity, load_fitted
from earwitness.protocols import Explainer, Fittable
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_plugins.class_mean import ClassMean
from networks import LABELS, RATE, SmallCNN, batch_of, classifier_of, clips_of, noise, wave_classifier_of

PARAMETERS: dict[str, Any] = {"n_frames": 7, "chunk_size": 2}
N_CLIPS = 39


def training(n_clips: int = N_CLIPS, seed: int = 3) -> ClipList:
    """Clips of two lengths; every third of a class."""
    rows = noise(n_clips, seed=seed)
    clips = clips_of(rows, LABELS)
    return ClipList([clip if i % 4 else Clip(clip.waveform[:3000], RATE, clip.clip_id, labels=clip.labels)
                     for i, clip in enumerate(clips)])  # fmt: skip


def fit_class_mean(folder: Path, **changes: Any) -> Fittable:
    options: dict[str, Any] = {
        "name": "class-mean",
        "classifier": classifier_of(),
        "train": training(),
        "parameters": PARAMETERS,
        **changes,
    }
    return fit(registry(), folder=folder, **options)


def tensors_in(folder: Path) -> Mapping[str, Tensor]:
    return load_tensors(folder / "explainer.safetensors")[0]


def relevance_of(explainer: Explainer, classifier: AudioClassifier) -> Tensor:
    batch = batch_of()
    explanation = explainer.explain(
        classifier, batch, target=torch.tensor([0, 2, 1, 1]), random=Random(0, batch.clip_ids)
    )
    assert explanation.relevance is not None
    return explanation.relevance.values


class Killed(BaseException):
    """Stands for Ctrl-C or a kill: no handler of errors may swallow it."""


def killed_after(n_steps: int) -> Callable[[int, int, str], None]:
    def progress(done: int, total: int, text: str) -> None:
        if done == n_steps:
            raise Killed

    return progress


# --- fit, save, load


def test_a_fitted_explainer_comes_back_with_the_same_explanation(tmp_path: Path) -> None:
    fitted = fit_class_mean(tmp_path)
    loaded = load_fitted(registry(), tmp_path, classifier_of())
    assert loaded is not fitted
    assert torch.equal(relevance_of(loaded, classifier_of()), relevance_of(fitted, classifier_of()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explainer.json", "explainer.safetensors"]
    assert fitted_identity(tmp_path)["explainer"] == "earwitness:class-mean"
    assert fitted_identity(tmp_path)["parameters"] == PARAMETERS


def test_the_prepared_classifier_is_the_one_it_was_fitted_to(tmp_path: Path) -> None:
    fitted = fit_class_mean(tmp_path, classifier=classifier_of().prepare())
    loaded = load_fitted(registry(), tmp_path, classifier_of())
    assert torch.equal(loaded.state()["means"], fitted.state()["means"])


def test_class_mean_is_the_mean_of_the_class_minus_the_mean_of_the_means(tmp_path: Path) -> None:
    classifier = classifier_of()
    values = relevance_of(fit_class_mean(tmp_path), classifier)
    means = []
    for label in LABELS:
        own = [clip for clip in training()._clips if label in clip.labels]
        maps = [classifier.features(clip.waveform[None])[0].double() for clip in own]
        maps = [functional.interpolate(m, 7, mode="linear", align_corners=False) for m in maps]
        means.append(sum(maps) / len(maps))
    middle = sum(means) / len(means)
    for row, target in zip(values, [0, 2, 1, 1], strict=True):
        wanted = functional.interpolate(means[target] - middle, row.shape[1], mode="linear", align_corners=False)[0]
        assert torch.allclose(row.double(), wanted, atol=1e-5)
    assert float(values[0].abs().max()) > 0.01


def test_fitting_again_loads_what_is_there(tmp_path: Path) -> None:
    before = fit_class_mean(tmp_path).state()["means"]
    written = (tmp_path / "explainer.safetensors").stat().st_mtime_ns

    def refuse(*_: object) -> None:
        raise AssertionError("it was fitted again")

    again = fit_class_mean(tmp_path, progress=refuse)
    assert torch.equal(again.state()["means"], before)
    assert (tmp_path / "explainer.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        ({"parameters": {"n_frames": 8, "chunk_size": 2}}, "parameters"),
        ({"classifier": classifier_of(SmallCNN(seed=9))}, "classifier"),
        ({"train": training(seed=4)}, "train"),
        ({"validation": training(9)}, "validation"),
        ({"seed": 1}, "seed"),
    ],
)
def test_another_fit_into_the_same_folder_is_refused_finished_or_not(
    tmp_path: Path, change: dict[str, Any], differing: str
) -> None:
    fit_class_mean(tmp_path / "finished")
    with pytest.raises(CheckpointError, match=rf"another fit \(earwitness:class-mean\): other {differing}\b"):
        fit_class_mean(tmp_path / "finished", **change)
    with pytest.raises(Killed):
        fit_class_mean(tmp_path / "killed", progress=killed_after(9))
    with pytest.raises(CheckpointError, match="belongs to another fit"):
        fit_class_mean(tmp_path / "killed", **change)
    fit_class_mean(tmp_path / "killed")


def test_other_labels_on_the_same_samples_are_another_fit(tmp_path: Path) -> None:
    fit_class_mean(tmp_path)
    moved = [Clip(c.waveform, RATE, c.clip_id, labels=(LABELS[(LABELS.index(c.labels[0]) + 1) % 3],))
             for c in training()._clips]  # fmt: skip
    with pytest.raises(CheckpointError, match="other train"):
        fit_class_mean(tmp_path, train=ClipList(moved))


# --- killed


@pytest.mark.parametrize("n_steps", [1, 8, 9, 17, 20])
def test_a_killed_fit_goes_on_and_ends_with_the_same_tensors(tmp_path: Path, n_steps: int) -> None:
    fit_class_mean(tmp_path / "whole")
    with pytest.raises(Killed):
        fit_class_mean(tmp_path / "killed", progress=killed_after(n_steps))
    assert not (tmp_path / "killed" / "explainer.json").exists()
    steps: list[int] = []
    fit_class_mean(tmp_path / "killed", progress=lambda done, total, text: steps.append(done))
    # The step that was killed had its checkpoint written before, if it was one of each eight.
    assert steps[0] == 8 * (n_steps // 8) + 1
    assert (tmp_path / "killed" / "explainer.safetensors").read_bytes() == (
        tmp_path / "whole" / "explainer.safetensors"
    ).read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["explainer.json", "explainer.safetensors"]


def test_a_fit_that_was_killed_between_its_two_files_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("earwitness.fitting.write_json", die)
    with pytest.raises(Killed):
        fit_class_mean(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="it resumes"):
        load_fitted(registry(), tmp_path, classifier_of())
    fit_class_mean(tmp_path)
    load_fitted(registry(), tmp_path, classifier_of())


SCRIPT = """
import sys, time
sys.path[:] = sys.argv[2:]
from pathlib import Path
import torch
torch.set_num_threads(1)
from test_fitting import fit_class_mean

def progress(done, total, text):
    print(done, flush=True)
    if done >= 10:
        time.sleep(60)

fit_class_mean(Path(sys.argv[1]), progress=progress)
"""


def test_a_fit_under_sigkill_goes_on_and_ends_with_the_same_tensors(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), *sys.path]
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), *paths], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "10":
                os.kill(process.pid, signal.SIGKILL)
                break
    assert process.wait() == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed").iterdir()] == ["checkpoint.safetensors"]
    steps: list[int] = []
    fit_class_mean(tmp_path / "killed", progress=lambda done, total, text: steps.append(done))
    assert steps[0] == 9
    fit_class_mean(tmp_path / "whole")
    assert (tmp_path / "killed" / "explainer.safetensors").read_bytes() == (
        tmp_path / "whole" / "explainer.safetensors"
    ).read_bytes()


def test_a_workspace_keeps_the_last_checkpoint_and_sweeps_up(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path, "key")
    assert workspace.load_checkpoint() is None
    workspace.save_checkpoint({"x": torch.zeros(2)}, step=1)
    workspace.save_checkpoint({"x": torch.ones(2)}, step=2, note="late")
    (tmp_path / ".checkpoint.safetensors.ab12").write_bytes(b"half")  # what a killed writer leaves
    kept = workspace.load_checkpoint()
    assert kept is not None
    assert torch.equal(kept[0]["x"], torch.ones(2))
    assert kept[1] == {"step": 2, "note": "late"}
    with pytest.raises(CheckpointError, match="another fit"):
        Workspace(tmp_path, "other").load_checkpoint()
    workspace.clear()
    assert list(tmp_path.iterdir()) == []


# --- refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "saliency", "parameters": {}}, "'saliency' has nothing to fit"),
        ({"train": ClipList([], LABELS)}, "have no clips"),
        (
            {"train": ClipList(clips_of(noise(4), ["cat", "cow"]))},
            r"labels \['cat', 'cow'\]\) share no label with small",
        ),
        ({"train": ClipList(clips_of(noise(4), ["cat"]), LABELS)}, "share no label"),
        ({"train": ClipList(clips_of(noise(4), LABELS[:2]))}, r"no clip of \['clock'\]"),
        ({"parameters": {"n_frame": 3}}, "Did you mean 'n_frames'"),
        ({"parameters": {"n_frames": 0}}, "must be positive"),
        ({"classifier": wave_classifier_of()}, "needs feature maps; small eats samples"),
    ],
)
def test_what_cannot_be_fitted_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        fit_class_mean(tmp_path, **change)
    assert not any(tmp_path.iterdir())


def test_an_unknown_explainer_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="Did you mean 'class-mean'"):
        fit_class_mean(tmp_path, name="class-meen")


@pytest.mark.parametrize("other", [classifier_of(SmallCNN(seed=9)), classifier_of(labels=("a", "b", "c"))])
def test_an_explainer_of_another_classifier_is_refused(tmp_path: Path, other: AudioClassifier) -> None:
    fit_class_mean(tmp_path)
    with pytest.raises(CheckpointError, match=r"was fitted to small .* which is not the small in use"):
        load_fitted(registry(), tmp_path, other)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    fit_class_mean(folder)
    return folder


def edited(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "explainer.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return damage


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / "explainer.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "explainer.safetensors").write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "one bit of the tensors": (flip_a_bit, "its checksum does not match"),
    "no tensors": (lambda folder: (folder / "explainer.safetensors").unlink(), "missing or damaged"),
    "no document": (lambda folder: (folder / "explainer.json").unlink(), r"explainer\.json is missing\). Fit it first"),
    "empty document": (lambda folder: (folder / "explainer.json").write_text(""), "is damaged"),
    "half a document": (
        lambda folder: (folder / "explainer.json").write_text((folder / "explainer.json").read_text()[:200]),
        "is damaged",
    ),
    "no JSON object": (lambda folder: (folder / "explainer.json").write_text("[1]"), "is damaged"),
    "no text": (lambda folder: (folder / "explainer.json").write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "another parameter": (edited(lambda d: d["parameters"].update(n_frames=9)), "is damaged: its checksum"),
    "no parameters": (edited(lambda d: d.pop("parameters")), "is damaged"),
    "no checksum": (edited(lambda d: d.pop("settings_sha256")), "is damaged"),
    "another schema": (edited(lambda d: d.update(schema=99)), "has schema 99, this version reads schema 1"),
    "no folder": (shutil.rmtree, "holds no fitted explainer"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_refused(tmp_path: Path, finished: Path, kind: str) -> None:
    damage, message = DAMAGE[kind]
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    load_fitted(registry(), folder, classifier_of())
    damage(folder)
    with pytest.raises(CheckpointError, match=message):
        load_fitted(registry(), folder, classifier_of())


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        fit_class_mean(tmp_path, progress=killed_after(9))
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        fit_class_mean(tmp_path)


def test_a_class_mean_that_was_not_fitted_says_how_to_fit_it() -> None:
    with pytest.raises(ExplanationError, match="earwitness fit class-mean"):
        relevance_of(ClassMean(), classifier_of())
    with pytest.raises(CheckpointError, match="has not been fitted"):
        ClassMean().state()


def test_a_fit_says_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit_class_mean(tmp_path / "silent")
    assert fit_facts(tmp_path / "silent")["n_parameters"] is None
    monkeypatch.setattr(ClassMean, "n_parameters", 17, raising=False)
    fit_class_mean(tmp_path / "counted")
    facts = fit_facts(tmp_path / "counted")
    assert facts["n_parameters"] == 17
    assert facts["seconds"] >= 0
