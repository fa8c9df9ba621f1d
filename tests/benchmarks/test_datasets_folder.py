"""Any folder of sound files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from earwitness.clips import Dataset
from earwitness.errors import AudioError, DatasetError
from earwitness_bench.datasets.folder import Folder
from earwitness_bench.datasets.recordings import length_notes, read_mono, resampled_length


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two classes and a file without one, of several formats, rates and channels."""
    root = tmp_path / "sounds"
    for path, rate, shape in (
        ("cat/b.wav", 44100, (44100,)),
        ("cat/deep/a.FLAC", 48000, (48000, 2)),
        ("dog/a.ogg", 22050, (11025,)),
        ("loose.wav", 8000, (4000, 3)),
    ):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = "FLAC" if path.endswith("FLAC") else None
        soundfile.write(file, np.random.default_rng(len(path)).uniform(-0.5, 0.5, shape), rate, format=kind)
    return root


def test_first_level_folders_are_labels_and_files_are_sorted(tree):
    data = Folder(tree)
    assert isinstance(data, Dataset)
    assert data.labels == ("cat", "dog")
    assert [(e.clip_id, e.labels) for e in data.entries] == [
        ("cat/b.wav", ("cat",)),
        ("cat/deep/a.FLAC", ("cat",)),
        ("dog/a.ogg", ("dog",)),
        ("loose.wav", ()),
    ]


def test_clips_are_mono_at_one_rate_and_as_long_as_announced(tree):
    for rate in (44100, 16000, 11025):
        data = Folder(tree, rate=rate)
        for i, entry in enumerate(data.entries):
            clip = data[i]
            assert clip.rate == rate
            assert clip.waveform.shape == (entry.n_samples,)
            assert clip.waveform.dtype == torch.float32
            assert abs(clip.duration_s - (1.0 if "cat" in entry.clip_id else 0.5)) < 1e-3
    samples, _ = soundfile.read(tree / "loose.wav", dtype="float32")
    assert np.allclose(Folder(tree, rate=8000)[3].waveform.numpy(), samples.mean(1), atol=1e-6)


def test_announced_lengths_are_those_of_the_resampler():
    import soxr

    for rate, new in ((44100, 16000), (48000, 44100), (8000, 44100), (22050, 48000), (11025, 8000)):
        for n in (1, 7, 1000, 12345, 44101):
            made = soxr.resample(np.zeros(n, np.float32), rate, new, quality="HQ")
            assert len(made) == resampled_length(n, rate, new)


def test_a_given_length_crops_and_pads_and_says_so(tree):
    data = Folder(tree, rate=8000, duration_s=0.75)
    assert {entry.n_samples for entry in data.entries} == {6000}
    assert data.notes == (
        "4 of 4 clips were cropped or zero-padded to 0.75 s: 2 cropped by up to 0.25 s, 2 zero-padded by up to 0.25 s.",
    )
    assert data[2].waveform[4100:].abs().max() == 0
    assert torch.equal(data[1].waveform[:5900], Folder(tree, rate=8000)[1].waveform[:5900])
    assert Folder(tree).notes == ()


def test_asked_labels_are_taken_in_their_order(tree):
    data = Folder(tree, labels=["dog", "cat"])
    assert data.labels == ("dog", "cat")
    assert len(data) == 3
    assert [e.clip_id for e in Folder(tree, labels=["dog"]).entries] == ["dog/a.ogg"]
    with pytest.raises(DatasetError, match=r"'dgo'\. Did you mean 'dog'"):
        Folder(tree, labels=["dgo"])
    with pytest.raises(DatasetError, match="list of folder names"):
        Folder(tree, labels="dog")


def test_unreadable_files_are_passed_over_with_the_reason(tree):
    (tree / "dog" / "text.wav").write_text("no sound")
    (tree / "dog" / "empty.mp3").touch()
    (tree / "dog" / "phone.m4a").write_bytes(b"\0\0\0\x20ftypM4A ")
    content = (tree / "cat" / "b.wav").read_bytes()
    (tree / "dog" / "cut.wav").write_bytes(content[:-1000])
    (tree / "dog" / "notes.txt").write_text("not looked at")
    data = Folder(tree)
    assert len(data) == 4
    assert len(data.notes) == 4
    for name, reason in (("text.wav", "not a sound file"), ("empty.mp3", "empty"), ("cut.wav", "truncated")):
        assert any(name in note and reason in note for note in data.notes)
    assert any("phone.m4a" in note for note in data.notes)


def test_a_file_that_is_damaged_inside_is_an_error_of_its_clip_alone(tree):
    soundfile.write(tree / "dog" / "nan.wav", np.full(4000, np.nan, np.float32), 8000, subtype="FLOAT")
    data = Folder(tree)
    index = [e.clip_id for e in data.entries].index("dog/nan.wav")
    with pytest.raises(AudioError, match=r"nan\.wav has NaN"):
        data[index]
    assert data[0].waveform.isfinite().all()


def test_hidden_files_and_loops_of_links_are_left_out(tree):
    (tree / ".hidden").mkdir()
    for copy in (tree / ".hidden" / "x.wav", tree / "cat" / "._b.wav"):
        copy.write_bytes((tree / "cat" / "b.wav").read_bytes())
    (tree / "dog" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "dog" / "self").symlink_to(tree / "dog", target_is_directory=True)
    (tree / "dog" / "gone.wav").symlink_to(tree / "nowhere.wav")
    elsewhere = tree.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.wav").write_bytes((tree / "cat" / "b.wav").read_bytes())
    (tree / "linked").symlink_to(elsewhere, target_is_directory=True)
    data = Folder(tree)
    assert [e.clip_id for e in data.entries] == [
        "cat/b.wav",
        "cat/deep/a.FLAC",
        "dog/a.ogg",
        "linked/far.wav",
        "loose.wav",
    ]
    assert any("gone.wav" in note for note in data.notes)


def test_a_folder_with_nothing_to_hear_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="holds no sound files"):
        Folder(tmp_path)
    (tmp_path / "a.wav").write_text("no sound")
    with pytest.raises(DatasetError, match=r"none of 1 sound files can be opened.*a\.wav"):
        Folder(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="is a file"):
        Folder(tmp_path / "a.wav")


@pytest.mark.parametrize("parameters", [{"rate": 0}, {"duration_s": -1.0}, {"duration_s": float("nan")}])
def test_parameters_out_of_range_are_refused(tree, parameters):
    with pytest.raises(DatasetError, match=next(iter(parameters))):
        Folder(tree, **parameters)


def test_the_fingerprint_follows_content_rate_and_length(tree):
    entry = Folder(tree).entries[0]
    assert Folder(tree).entries[0] == entry
    assert Folder(tree, rate=16000).entries[0].fingerprint != entry.fingerprint
    assert Folder(tree, duration_s=0.5).entries[0].fingerprint != entry.fingerprint
    soundfile.write(tree / "cat" / "b.wav", np.full(44100, 0.1), 44100)
    assert Folder(tree).entries[0].fingerprint != entry.fingerprint


def test_only_the_asked_part_of_a_long_file_is_decoded(tmp_path):
    path = tmp_path / "long.wav"
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 8000 * 60).astype(np.float32)
    samples[8000 * 50] = np.nan
    soundfile.write(path, samples, 8000, subtype="FLOAT")
    assert torch.equal(read_mono(path, 8000, 16000), torch.from_numpy(samples[:16000]))
    with pytest.raises(AudioError, match="NaN"):
        read_mono(path, 8000, 8000 * 60)


def test_clips_of_the_right_length_need_no_note():
    assert length_notes([100, 100], 100, 10) == []
