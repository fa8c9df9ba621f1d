"""The parts of an explained recording: their sounds add up to what is heard, and every part has its files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torch import Tensor

from earwitness import Explanation, Mask, Relevance, Settings, load_classifier
from earwitness.audio.files import read_audio
from earwitness.audio.rules import PercentileBlur
from earwitness.clips import Batch, Clip
from earwitness.errors import StoreError
from earwitness.explanation import Parts
from earwitness.parts import PARTS_WRITTEN, part_gains
from earwitness.pictures import PartMaps, draw_parts
from earwitness.recordings import ExplainedRecording, explain_recording
from earwitness.render import Scene
from earwitness_bench.datasets.toy import Toy

TOY = load_classifier("toy-cnn")


class Bands:
    """As many parts as wanted: relevance of neighbouring bands of the features, each larger than the one before."""

    def __init__(self, n_parts: int = 3, *, kind: str = "relevance", fail_at: int = 0, selected: int = 0) -> None:
        self.n_parts, self.kind, self.fail_at, self.selected, self.calls = n_parts, kind, fail_at, selected, 0

    def explain(self, classifier: Any, batch: Batch, *, target: Tensor, random: Any) -> Explanation:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("out of ideas")
        values = classifier.features(batch.waveforms)[:, 0].sigmoid()
        height = values.shape[1] // self.n_parts

        def part(number: int) -> Relevance | Mask:
            own = torch.zeros_like(values)
            # Neighbours overlap, and each band has something against the class beside it.
            own[:, number * height : (number + 2) * height] = values[:, number * height : (number + 2) * height]
            if self.kind == "mask":
                return Mask(own, "features")
            own[:, : number * height : 3] = -0.1
            return Relevance(own * (number + 1), "features")

        weights = torch.arange(1.0, self.n_parts + 1).expand(len(batch), -1) * torch.tensor([1.0, -1.0]).repeat(
            self.n_parts
        )[: self.n_parts]  # fmt: skip
        chosen = torch.ones(weights.shape, dtype=torch.bool)
        if self.selected:
            chosen[:, self.selected :] = False
        names = tuple(f"band {number}" for number in range(self.n_parts))
        whole = Relevance(sum(part(number).values for number in range(self.n_parts)), "features")  # type: ignore[arg-type]
        return Explanation(target, relevance=whole, parts=Parts(names, weights, chosen, part))


def recording(path: Path, n_clips: int = 1) -> Path:
    toy = Toy(split="test", clips=n_clips)
    soundfile.write(path, torch.cat([toy[i].waveform for i in range(n_clips)]).numpy(), 16000, subtype="FLOAT")
    return path


def explained(tmp_path: Path, method: Any, n_clips: int = 1, **options: Any) -> ExplainedRecording:
    path = recording(tmp_path / "in.wav", n_clips)
    settings = Settings(draws=2, **options)
    return explain_recording(
        path, tmp_path / "out", classifier=TOY, explainer=method, explainer_name="bands", settings=settings
    )


def sound(path: Path) -> Tensor:
    return read_audio(path)[0][0]


def scene_of(n_rows: int = 2) -> Scene:
    toy = Toy(split="test", clips=n_rows)
    batch = Batch.of([toy[i] for i in range(n_rows)])
    return Scene(TOY, batch, TOY.listening)


def explanation_of(scene: Scene, method: Bands) -> Explanation:
    return method.explain(TOY, scene.batch, target=torch.zeros(len(scene.batch), dtype=torch.int64), random=None)


@pytest.mark.parametrize("n_clips", [1, 3])
@pytest.mark.parametrize("kind", ["relevance", "mask"])
def test_the_sounds_of_the_parts_sum_to_what_is_heard(tmp_path: Path, n_clips: int, kind: str) -> None:
    result = explained(tmp_path, Bands(kind=kind), n_clips)
    heard = sound(result.heard)
    assert float((sum(sound(part.sound) for part in result.parts) - heard).abs().max()) < 1e-5
    assert all(float(sound(part.sound).abs().max()) > 0.01 * float(heard.abs().max()) for part in result.parts)


@pytest.mark.parametrize("kind", ["relevance", "mask"])
def test_a_gain_is_divided_in_proportion_to_positive_relevance(kind: str) -> None:
    scene = scene_of()
    explanation = explanation_of(scene, Bands(kind=kind))
    gain = torch.rand(scene.magnitude.shape, generator=torch.Generator().manual_seed(0))
    found = list(part_gains(scene, explanation, gain, [0, 1, 2]))
    assert torch.allclose(sum(found), gain, atol=1e-6)
    assert explanation.parts is not None
    lifted = [scene.lift(explanation.parts.map(k).values.clamp(min=0), "features") for k in range(3)]
    there = (lifted[0] > 0.01) & (lifted[1] > 0.01)
    assert bool(there.any())
    ratio = (found[0] / found[1])[there]
    assert torch.allclose(ratio, (lifted[0] / lifted[1])[there], rtol=1e-3)


def test_parts_that_are_not_selected_have_nothing_of_it() -> None:
    scene = scene_of()
    gain = torch.ones_like(scene.magnitude)
    first, second, third = part_gains(scene, explanation_of(scene, Bands(selected=2)), gain, [0, 1, 2])
    assert torch.allclose(first + second, gain, atol=1e-6)
    assert not third.any()


def test_the_rule_of_the_thesis_makes_a_sound_of_the_map_of_each_part(tmp_path: Path) -> None:
    result = explained(tmp_path, Bands(), rule=PercentileBlur(80), match_loudness=True)
    waveform = sound(tmp_path / "in.wav")
    scene = Scene(TOY, Batch.of([Clip(waveform, 16000, "in.wav@0")]), TOY.listening)
    explanation = explanation_of(scene, Bands())
    assert explanation.parts is not None
    for number, part in enumerate(result.parts):
        own = explanation.parts.map(number)
        mask = scene.lift(PercentileBlur(80)(own.values), "features").clamp(0, 1)
        wanted = scene.listening.inverse(mask * scene.spectrum, scene.n_samples)[0]
        assert torch.allclose(sound(part.sound), wanted, atol=1e-5)
        loud = sound(part.sound.with_name(f"part-{number + 1}_loud.wav"))
        assert float(loud.square().mean() / waveform.square().mean()) == pytest.approx(1, rel=0.02) or float(
            loud.abs().max()
        ) == pytest.approx(1, abs=1e-3)
        assert torch.allclose(loud / loud.abs().max(), wanted / wanted.abs().max(), atol=1e-4)


def test_every_part_has_a_sound_maps_and_a_share(tmp_path: Path) -> None:
    result = explained(tmp_path, Bands())
    assert [part.name for part in result.parts] == ["band 0", "band 1", "band 2"]
    assert [part.share for part in result.parts] == pytest.approx([1 / 6, -2 / 6, 3 / 6])
    written = json.loads((result.folder / "explanation.json").read_text())["parts"]
    assert written[1] == {
        "name": "band 1",
        "share": result.parts[1].share,
        "sound": "parts/part-2.wav",
        "maps": "parts/part-2.safetensors",
    }
    assert (result.folder / "parts.png").stat().st_size > 20000


def test_the_maps_are_those_of_the_part(tmp_path: Path) -> None:
    result = explained(tmp_path, Bands())
    scene = scene_of(1)
    explanation = explanation_of(scene, Bands())
    assert explanation.parts is not None
    part = explanation.parts.map(2)
    assert isinstance(part, Relevance)
    wanted = scene.relevance_map(Explanation(explanation.target, relevance=part))[0]
    held = load_file(result.parts[2].maps)
    n_columns = held["relevance"].shape[1]
    assert held["relevance"].shape == held["mask"].shape == (len(held["frequencies_hz"]), len(held["times_s"]))
    frames = scene.listening.grid(scene.n_samples).times_s
    for column in range(n_columns):
        own = [i for i, time_s in enumerate(frames) if min(int(time_s * n_columns), n_columns - 1) == column]
        mean = wanted[:, own].mean(1)
        assert torch.allclose(held["relevance"][:, column], mean, atol=1e-5 * float(wanted.abs().max()))
    assert bool(held["relevance"].any(0).all())  # no column without a frame
    assert float(held["mask"].min()) >= 0
    assert float(held["mask"].max()) <= 1
    assert bool(held["mask"].any())


def test_of_many_parts_the_heaviest_are_written_and_it_is_said(tmp_path: Path) -> None:
    result = explained(tmp_path, Bands(PARTS_WRITTEN + 4))
    assert [part.name for part in result.parts] == [f"band {number}" for number in range(4, PARTS_WRITTEN + 4)]
    assert any("16 of 20 parts are written" in note for note in result.notes)


def test_parts_that_weigh_nothing_are_not_written(tmp_path: Path) -> None:
    class Two(Bands):
        def explain(self, *arguments: Any, **options: Any) -> Explanation:
            found = super().explain(*arguments, **options)
            assert found.parts is not None
            chosen = torch.zeros_like(found.parts.selected)
            chosen[:, [1, 3]] = True
            return replace(found, parts=replace(found.parts, selected=chosen))

    result = explained(tmp_path, Two(6))
    assert [part.name for part in result.parts] == ["band 1", "band 3"]


def test_a_second_run_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    explained(tmp_path, Bands(4))
    assert len(explained(tmp_path, Bands(2)).parts) == 2
    names = sorted(path.name for path in (tmp_path / "out" / "parts").iterdir())
    assert names == ["part-1.safetensors", "part-1.wav", "part-2.safetensors", "part-2.wav"]


def test_silence_leaves_nothing_of_the_explanation_before(tmp_path: Path) -> None:
    out = explained(tmp_path, Bands(4), match_loudness=True).folder
    (out / "mine.txt").write_text("stays")
    soundfile.write(tmp_path / "silence.wav", torch.zeros(16000).numpy(), 16000)
    explain_recording(tmp_path / "silence.wav", out, classifier=TOY, explainer=Bands(4), explainer_name="bands")
    assert sorted(path.name for path in out.iterdir()) == ["explanation.json", "mine.txt"]


def test_a_recording_in_the_output_folder_is_not_removed(tmp_path: Path) -> None:
    path = recording(tmp_path / "rest_of_it.wav", 1).rename(tmp_path / "heard_loud.wav")
    explain_recording(path, tmp_path, classifier=TOY, explainer=Bands(2), explainer_name="bands")
    assert path.exists()


def test_a_method_without_parts_writes_none(tmp_path: Path) -> None:
    class NoParts(Bands):
        def explain(self, *arguments: Any, **named: Any) -> Explanation:
            found = super().explain(*arguments, **named)
            return Explanation(found.target, relevance=found.relevance)

    result = explained(tmp_path, NoParts())
    assert result.parts == ()
    assert not (result.folder / "parts.png").exists()
    assert not (result.folder / "parts").exists()


def test_a_method_that_fails_half_way_leaves_no_half_written_part(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of ideas"):
        explained(tmp_path, Bands(fail_at=2), n_clips=6)
    assert not list((tmp_path / "out").rglob("*.wav"))


def test_a_picture_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    maps = PartMaps("one", torch.zeros(8, 4), torch.zeros(8, 4))
    settings: dict[str, Any] = {"frequencies_hz": torch.linspace(0, 4000, 8), "duration_s": 1.0, "loudest": 0.0}
    draw_parts(tmp_path / "silent.png", title="silence", parts=[maps], **settings)
    with pytest.raises(StoreError, match=r"Cannot write .*absent"):
        draw_parts(tmp_path / "absent" / "x.png", title="", parts=[maps], **settings)


def test_clips_keep_their_rows() -> None:
    """Each row's gain is divided by its own maps, whatever stands beside it in the batch."""
    scene = scene_of(2)
    gain = torch.ones_like(scene.magnitude)
    both = next(part_gains(scene, explanation_of(scene, Bands()), gain, [1]))
    alone = Scene(TOY, Batch.of([Clip(scene.batch.waveforms[1], 16000, "alone")]), TOY.listening)
    one = next(part_gains(alone, explanation_of(alone, Bands()), gain[1:], [1]))
    assert torch.allclose(both[1], one[0], atol=1e-5)
