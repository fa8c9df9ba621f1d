"""Whether prototypes are recognised: who is asked what, what is counted, and what it is compared with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch import Tensor, nn

from apnet_toy import CONFIGURATION, LABELS, N_SAMPLES, NASTY, RATE, clips, prototypes
from earwitness.audio.front_end import Identity
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.clips import Clip
from earwitness.errors import ConfigurationError
from earwitness_plugins.apnet.book import write_book
from earwitness_plugins.apnet.explainer import APNet
from earwitness_plugins.apnet.history import History
from earwitness_plugins.apnet.network import similarity
from earwitness_plugins.apnet.prototypes import LEVEL, sounds_of
from earwitness_plugins.apnet.recognition import Sounds, judged, probabilities_of_sounds, prototype_sounds, references

HOP, LENGTH = 128, 15 * 128  # of the toy's inverted windows


class Pitch(nn.Module):
    """Says by the energy below 600 Hz, from there to 1700 Hz, and above."""

    def __init__(self, rate: int) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, samples: Tensor) -> Tensor:
        power = torch.fft.rfft(samples[:, 0]).abs().square()
        hz = torch.arange(power.shape[1], device=power.device) * self.rate / samples.shape[2]
        bands = torch.bucketize(hz, torch.tensor([600.0, 1700.0]))
        return torch.stack([power[:, bands == band].sum(1) for band in range(3)], 1).clamp_min(1e-9).log()


def pitch_judge(
    rate: int = 16_000, labels: tuple[str, ...] = LABELS, duration_s: float | None = None
) -> AudioClassifier:
    return AudioClassifier(Pitch(rate), front_end=Identity(rate=rate), labels=labels, duration_s=duration_s)


def quiet(done: int, total: int, text: str) -> None:
    pass


def test_a_judge_says_of_the_files_of_the_book_what_the_book_says(apnet: APNet, tmp_path: Path) -> None:
    judges = {"pitch": pitch_judge(), "other": pitch_judge(8000, ("high", "low", "none"))}
    book = write_book(
        tmp_path, apnet.trained, CONFIGURATION, history=History.of(apnet.trained), clips=clips(12), judges=judges
    )
    assert json.loads(json.dumps(book)) == json.loads((tmp_path / "book.json").read_text())
    right, known = {"pitch": 0, "other": 0}, {"pitch": 0, "other": 0}
    for said in book["prototypes"]:
        samples, rate = soundfile.read(tmp_path / said["sound"], dtype="float32")
        for name, judge in judges.items():
            heard = soxr.resample(samples, rate, judge.rate, quality="HQ")
            heard = np.concatenate([heard, np.zeros(judge.rate - len(heard), np.float32)])  # 240 ms, up to a second
            p = judge.probabilities(torch.from_numpy(heard)[None])[0]
            answer = said["heard_as"][name]
            assert answer["label"] == judge.labels[int(p.argmax())]
            assert answer["probability"] == pytest.approx(float(p.max()), abs=1e-4)
            if said["label"] in judge.labels:
                assert answer["recognised"] == (answer["label"] == said["label"])
                right[name] += answer["recognised"]
                known[name] += 1
            else:
                assert answer["recognised"] is None
    for judge in book["recognition"]:
        name = judge["judge"]
        share = right[name] / known[name]
        assert judge["prototypes"] == {"recognised": right[name], "asked": known[name], "share": share}
        assert (judge["chance"], judge["classes"]) == (pytest.approx(1 / 3), 3)
    assert 0 < known["other"] < known["pitch"] == 6
    # Tones, from a network that tells them apart: the windows are recognised, recorded or inverted.
    pitch = book["recognition"][0]
    assert pitch["nearest"] == pitch["nearest_inverted"] == {"recognised": 6, "asked": 6, "share": 1.0}
    page = (tmp_path / "index.html").read_text()
    assert "Are they recognised?" in page
    assert page.count("; it knows no") == 6 - known["other"]
    assert page.count(": not recognised") == sum(known.values()) - sum(right.values())


def test_the_references_are_the_nearest_windows_recorded_and_inverted_at_the_same_time(apnet: APNet) -> None:
    trained, data = apnet.trained, clips(12, 3 * N_SAMPLES)
    assert trained.gallery is not None
    found = references(trained, CONFIGURATION, data, quiet)
    assert found is not None
    front_end = CONFIGURATION.front_end(trained.min_db, trained.max_db)
    by_name = {data[i].clip_id: data[i] for i in range(12)}
    for j, row in enumerate(trained.gallery.nearest):
        clip = by_name[row[0].clip_id]
        features = front_end(clip.waveform[None])
        starts = [*range(0, features.shape[-1] - 16, 8), features.shape[-1] - 16]
        windows = torch.cat([features[..., start : start + 16] for start in starts])
        distances = trained.network.distances(trained.network.encoder(windows))
        best = int(trained.network.weighted(similarity(distances))[:, j].argmax())
        stretch = clip.waveform[starts[best] * HOP + 128 :][:LENGTH]
        assert torch.allclose(found.recorded.waveforms[j], stretch * LEVEL / stretch.abs().max(), atol=1e-6)
        inverted = sounds_of(windows[best : best + 1], front_end.log_mel, seed=0)[0]
        assert torch.allclose(found.inverted.waveforms[j], inverted * LEVEL / inverted.abs().max(), atol=1e-4)
        encoding = trained.network.encoder.encode(windows[best : best + 1])
        decoded = trained.network.decoder(encoding.latent, encoding.masks).detach()
        again = sounds_of(decoded, front_end.log_mel, seed=0)[0]
        assert torch.allclose(found.reconstructed.waveforms[j], again * LEVEL / again.abs().max(), atol=1e-4)
        kinds = (found.recorded, found.inverted, found.reconstructed)
        assert [kind.classes[j] for kind in kinds] == [clip.labels[0]] * 3


def test_a_click_is_where_it_was_after_the_inversion(apnet: APNet) -> None:
    trained = apnet.trained
    assert trained.gallery is not None
    samples = torch.zeros(N_SAMPLES)
    samples[1500:1510] = 0.5
    near = tuple((replace(row[0], clip_id="click"),) for row in trained.gallery.nearest)
    clicked = replace(trained, gallery=replace(trained.gallery, nearest=near))
    data = ClipList([Clip(samples, RATE, "click", labels=("low",))], LABELS)
    found = references(clicked, CONFIGURATION, data, quiet)
    assert found is not None
    recorded, inverted = (sounds.waveforms[0].square() for sounds in (found.recorded, found.inverted))
    time = torch.arange(LENGTH)
    assert float((recorded * time).sum() / recorded.sum()) == pytest.approx(1505 - 128, abs=1)
    loudest = inverted > 0.1 * inverted.max()
    assert float(time[loudest].double().mean()) == pytest.approx(1505 - 128, abs=HOP / 2)


def test_without_the_data_or_with_others_there_is_nothing_to_compare_with(apnet: APNet) -> None:
    others = ClipList([Clip(torch.rand(N_SAMPLES) - 0.5, RATE, "elsewhere", labels=("low",))], LABELS)
    assert references(apnet.trained, CONFIGURATION, others, quiet) is None
    sounds = prototype_sounds(apnet.trained, CONFIGURATION)
    alone = judged("pitch", pitch_judge(), sounds, None, quiet)
    assert (alone.recorded, alone.inverted, alone.reconstructed) == (None, None, None)
    assert alone.prototypes.asked == 6


def test_a_sound_longer_than_a_judge_takes_is_heard_in_windows_and_a_shorter_one_with_silence_after_it() -> None:
    noise = 0.1 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    sounds = Sounds(noise, 8000, ("low", "low", "low"))
    judge = pitch_judge(8000, duration_s=0.05)  # 400 samples
    wanted = torch.stack([judge.probabilities(noise[:, s : s + 400]) for s in (0, 200, 400, 600)]).mean(0)
    assert torch.allclose(probabilities_of_sounds(judge, sounds), wanted, atol=1e-6)
    judge = pitch_judge(8000, duration_s=0.0625)  # 500 samples: the windows end with the sound
    wanted = torch.stack([judge.probabilities(noise[:, s : s + 500]) for s in (0, 250, 500)]).mean(0)
    assert torch.allclose(probabilities_of_sounds(judge, sounds), wanted, atol=1e-6)
    for judge, n_samples in ((pitch_judge(8000, duration_s=0.2), 1600), (pitch_judge(8000), 8000)):
        followed = torch.cat([noise, torch.zeros(3, n_samples - 1000)], 1)
        assert torch.allclose(probabilities_of_sounds(judge, sounds), judge.probabilities(followed), atol=1e-6)
    long = Sounds(torch.randn(2, 9001, generator=torch.Generator().manual_seed(1)), 8000, ("low", "low"))
    assert torch.allclose(probabilities_of_sounds(judge, long), judge.probabilities(long.waveforms), atol=1e-6)


def test_a_silent_prototype_is_recognised_by_nobody(apnet: APNet, tmp_path: Path) -> None:
    assert apnet.trained.gallery is not None
    sounds = apnet.trained.gallery.sounds.clone()
    sounds[5] = 0
    classes = torch.tensor([0, 0, 1, 1, 2, 0])  # what the judge says to silence, if it were asked
    trained = replace(apnet.trained, gallery=replace(apnet.trained.gallery, sounds=sounds, classes=classes))
    judges = {NASTY: pitch_judge()}
    book = write_book(tmp_path, trained, CONFIGURATION, history=History.of(trained), judges=judges)
    assert book["prototypes"][5]["heard_as"] == {NASTY: None}
    right = [said["heard_as"][NASTY]["recognised"] for said in book["prototypes"][:5]]
    (judge,) = book["recognition"]
    assert judge["prototypes"] == {"recognised": sum(right), "asked": 6, "share": sum(right) / 6}
    assert (judge["nearest"], judge["nearest_inverted"]) == (None, None)
    assert NASTY not in (tmp_path / "index.html").read_text()


def test_a_judge_of_other_classes_is_refused_before_the_older_book_is_touched(apnet: APNet, tmp_path: Path) -> None:
    write_book(tmp_path, apnet.trained, CONFIGURATION, history=History.of(apnet.trained))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    judges = {"pitch": pitch_judge(), "pets": pitch_judge(labels=("cat", "dog", "hamster"))}
    with pytest.raises(ConfigurationError, match=r"pets knows none of the prototypes' classes.*begin with cat, dog"):
        write_book(tmp_path, apnet.trained, CONFIGURATION, history=History.of(apnet.trained), judges=judges)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_judges_are_named_on_the_command_line_with_their_parameters(apnet_folder: Path, tmp_path: Path) -> None:
    judge = f"apnet(weights={apnet_folder})"
    done = prototypes(apnet_folder, "--judge", judge, "--out", tmp_path / "book")
    assert done.exit_code == 0, done.output
    (said,) = json.loads((tmp_path / "book" / "book.json").read_text())["recognition"]
    counts = said["prototypes"]
    assert said["judge"] == judge
    assert (
        f"{judge} recognises {counts['recognised']} of 6 ({counts['share']:.0%}) prototypes; by chance 33%"
        in done.stdout
    )
    for wrong, message in (
        (["esc10-cnn"], "knows none of the prototypes' classes"),
        ([judge, judge], "is given twice"),
        (["apnet(weights=x"], "has no closing parenthesis"),
        (["apnet("], "has no closing parenthesis"),
        (["apnet(heights=x)"], "has no parameter 'heights'"),
        (["nobody"], "nobody"),
    ):
        options = [option for name in wrong for option in ("--judge", name)]
        refused = prototypes(apnet_folder, *options, "--out", tmp_path / "book")
        assert refused.exit_code == 1
        assert message in refused.stderr


def test_a_judges_parameters_may_be_lists_and_tuples(
    apnet_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, *, parameters: dict[str, Any], plugins: object) -> None:
        loaded.append((name, parameters))
        raise ConfigurationError("This is far enough.")

    monkeypatch.setattr("earwitness.loading.load_classifier", load)
    for text, parameters in (
        ("it(a=[1, 2], b=x)", {"a": [1, 2], "b": "x"}),
        ("it(a=(0.5,-2),b={'k': [1, (2, 3)], 'l': ','}, c = -1)",
         {"a": (0.5, -2), "b": {"k": [1, (2, 3)], "l": ","}, "c": -1}),
        ("it(a='x, y=1', b=\"it's, so\", c=/a-b/c.d)", {"a": "x, y=1", "b": "it's, so", "c": "/a-b/c.d"}),
        ("it(a=[])", {"a": []}),
        ("it()", {}),
        ("it", {}),
    ):  # fmt: skip
        done = prototypes(apnet_folder, "--judge", text, "--out", tmp_path / "book")
        assert "This is far enough." in done.stderr
        assert loaded.pop() == ("it", parameters)
    for text, rest in (
        ("it(a=[1, 2)", "a=[1, 2"),
        ("it(a=[1, x], b=2)", "a=[1, x], b=2"),
        ("it(b=2, a='x, y)", "a='x, y"),
        ("it(a=[1] + [2], b=3)", "a=[1] + [2], b=3"),
        ("it(a=__import__('os'), b=x, y)", "y"),
        ("it(a=1,, b=2)", ""),
    ):
        refused = prototypes(apnet_folder, "--judge", text, "--out", tmp_path / "book")
        assert refused.exit_code == 1
        assert f"The judge {text!r} cannot be read from {rest!r} on. Parameters read NAME=VALUE" in refused.stderr
    assert loaded == []
