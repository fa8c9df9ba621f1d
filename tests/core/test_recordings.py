"""Explaining recordings of any rate, number of channels and length: what is written, and that it adds up."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from earwitness import Explanation, Mask, Settings, load_classifier, load_explainer
from earwitness.audio.files import read_audio
from earwitness.audio.rules import parse_rule
from earwitness.clips import resample
from earwitness.errors import ClassifierError
from earwitness.recordings import ExplainedRecording, explain_recording
from earwitness_bench.datasets.toy import Toy

TOY = load_classifier("toy-cnn")


def sound(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """Toy sounds one after the other, at any rate."""
    toy = Toy(split="test", clips=4)
    one = torch.cat([toy[index].waveform for index in range(4)])
    long = one.repeat(int(seconds // 4) + 1)[: round(seconds * 16000)]
    samples = resample(long, 16000, rate).numpy()
    return np.stack([samples * 0.9**channel for channel in range(channels)], axis=1)


def explained(path: Path, out: Path, explainer: object = None, **settings: object) -> ExplainedRecording:
    method = explainer or load_explainer("saliency")
    return explain_recording(
        path,
        out,
        classifier=TOY,
        explainer=method,  # type: ignore[arg-type]
        explainer_name="saliency",
        settings=Settings(draws=3, **settings),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("seconds", "rate", "channels"),
    [(1.0, 16000, 1), (0.4, 16000, 1), (3.7, 44100, 2), (2.0, 8000, 1), (1.5, 96000, 8)],
)
def test_heard_and_rest_as_written_add_up_to_the_recording(
    seconds: float, rate: int, channels: int, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "in.wav", sound(seconds, rate, channels), rate, subtype="FLOAT")
    result = explained(tmp_path / "in.wav", tmp_path / "out")
    samples, _ = read_audio(tmp_path / "in.wav")
    recording = resample(samples.mean(0), rate, TOY.rate)
    heard, rest = (read_audio(path)[0][0] for path in (result.heard, result.rest))
    assert len(heard) == len(rest) == len(recording)
    difference = (heard + rest - recording).abs().max()
    assert float(difference / recording.abs().max()) < 1e-5


def test_what_was_done_to_the_recording_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(3.7, 44100, 2), 44100)
    notes = " / ".join(explained(tmp_path / "in.wav", tmp_path / "out").notes)
    assert "2 channels averaged" in notes
    assert "resampled from 44100 to 16000 Hz" in notes
    assert "windows of 1 s" in notes


def test_a_recording_shorter_than_the_classifier_takes_is_padded_and_it_is_said(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(0.4, 16000), 16000)
    result = explained(tmp_path / "in.wav", tmp_path / "out")
    assert any("followed by silence" in note for note in result.notes)
    assert soundfile.info(result.heard).frames == 6400


def test_the_same_seed_gives_the_same_files_byte_by_byte(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(2.5, 16000), 16000)
    first, second = (explained(tmp_path / "in.wav", tmp_path / name, seed=3).folder for name in ("a", "b"))
    for name in ("heard.wav", "rest.wav", "explanation.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_budget_of_the_rule_is_what_is_heard(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(1.0, 16000), 16000)
    verdict = explained(tmp_path / "in.wav", tmp_path / "out", rule=parse_rule("energy(0.2)")).verdict
    assert verdict is not None
    assert verdict.kept_energy == pytest.approx(0.2, abs=1e-3)


def test_another_class_than_the_decision_can_be_explained(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(1.0, 16000), 16000)
    labels = {explained(tmp_path / "in.wav", tmp_path / name, label=name).label for name in TOY.labels}
    assert labels == set(TOY.labels)
    with pytest.raises(ClassifierError, match="does not know the label"):
        explained(tmp_path / "in.wav", tmp_path / "out", label="class3")


def test_the_louder_copy_has_the_level_of_the_recording(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", 0.05 * sound(1.0, 16000), 16000, subtype="FLOAT")
    result = explained(tmp_path / "in.wav", tmp_path / "out", match_loudness=True)
    loud, recording = (read_audio(path)[0][0] for path in (result.folder / "heard_loud.wav", tmp_path / "in.wav"))
    assert float(loud.square().mean()) == pytest.approx(float(recording.square().mean()), rel=1e-3)


class KeepAll:
    """A method that costs nothing."""

    def explain(self, classifier, batch, *, target, random):  # type: ignore[no-untyped-def]
        grid = classifier.listening.grid(batch.waveforms.shape[1])
        return Explanation(target, mask=Mask(torch.ones(len(batch), *grid.shape), "stft"))


def test_memory_does_not_grow_with_the_length_of_the_recording(tmp_path: Path) -> None:
    peaks = []
    for seconds in (20, 80):
        soundfile.write(tmp_path / "in.wav", sound(seconds, 16000), 16000)
        tracemalloc.start()
        explained(tmp_path / "in.wav", tmp_path / "out", explainer=KeepAll())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 1e6


class Fails:
    """A method that breaks down in the second chunk."""

    def __init__(self) -> None:
        self.calls = 0

    def explain(self, classifier, batch, *, target, random):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("out of ideas")
        return KeepAll().explain(classifier, batch, target=target, random=random)


def test_a_method_that_fails_half_way_leaves_no_half_written_sound(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(12, 16000), 16000)
    with pytest.raises(RuntimeError, match="out of ideas"):
        explained(tmp_path / "in.wav", tmp_path / "out", explainer=Fails())
    assert not list((tmp_path / "out").glob("*.wav"))


def test_a_method_that_fails_at_once_leaves_an_earlier_explanation(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(1.0, 16000), 16000)
    folder = explained(tmp_path / "in.wav", tmp_path / "out").folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = Fails()
    broken.calls = 1
    with pytest.raises(RuntimeError, match="out of ideas"):
        explained(tmp_path / "in.wav", tmp_path / "out", explainer=broken)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_all_numbers_are_in_the_document(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(1.0, 16000), 16000)
    result = explained(tmp_path / "in.wav", tmp_path / "out")
    document = json.loads((result.folder / "explanation.json").read_text())
    assert document["verdict"]["label"] == document["label"] == result.label
    assert document["classifier"]["checksum"] == TOY.checksum
    assert document["rule"] == "energy(0.3,soft)"
    assert set(document["listening_stft"]) == {"rate", "n_fft", "hop_length"}
    assert (result.folder / "explanation.png").stat().st_size > 20000


@pytest.mark.parametrize(("scale", "route"), [("log1p", "waveform"), ("magnitude", "spectrogram")])
def test_both_scales_and_both_routes_are_open(scale: str, route: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", sound(1.0, 16000), 16000)
    rule = parse_rule("normalise")
    assert explained(tmp_path / "in.wav", tmp_path / "out", rule=rule, scale=scale, route=route).verdict is not None


def test_a_mask_of_the_methods_own_is_heard_as_it_is_unless_a_budget_is_asked_for(tmp_path: Path) -> None:
    class Half:
        def explain(self, classifier, batch, *, target, random):
            shape = classifier.listening.grid(batch.waveforms.shape[1]).shape
            return Explanation(target, mask=Mask(torch.full((len(batch), *shape), 0.5), "stft"))

    soundfile.write(tmp_path / "in.wav", sound(1.0, 16000), 16000, subtype="FLOAT")
    for rule, said, kept in ((None, "own", 0.25), ("normalise", "own", 0.25), ("energy(0.6)", "energy(0.6,soft)", 0.6)):
        result = explained(tmp_path / "in.wav", tmp_path / "out", Half(), rule=rule and parse_rule(rule))
        assert result.verdict is not None
        assert result.verdict.kept_energy == pytest.approx(kept, abs=1e-3)
        assert json.loads((result.folder / "explanation.json").read_text())["rule"] == said


def test_an_explanation_that_points_at_nothing_is_heard_as_nothing_and_said_to(tmp_path: Path) -> None:
    """Not as the whole recording at a lower level, whatever energy the rule would keep."""

    class Nothing:
        def explain(self, classifier, batch, *, target, random):
            return Explanation(
                target, mask=Mask(torch.zeros_like(classifier.features(batch.waveforms)[:, 0]), "features")
            )

    soundfile.write(tmp_path / "in.wav", sound(1.0, 16000), 16000, subtype="FLOAT")
    result = explained(tmp_path / "in.wav", tmp_path / "out", Nothing())
    assert float(read_audio(result.heard)[0].abs().max()) == 0
    assert any("points at nothing, and nothing is heard" in note for note in result.notes)
    assert result.verdict is not None
    assert not result.verdict.supported
