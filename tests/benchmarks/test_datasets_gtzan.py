"""GTZAN, on a tree of its layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from earwitness.clips import Dataset
from earwitness.errors import AudioError, DatasetError
from earwitness_bench.datasets.gtzan import LABELS, gtzan
from earwitness_bench.datasets.recordings import read_mono
from sounds import write_sound

SECOND = 22050


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EARWITNESS_DATA", str(tmp_path / "data"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two excerpts of each genre, of about a second."""
    root = tmp_path / "data" / "gtzan" / "genres_original"
    for genre in LABELS:
        for index in (0, 54):
            write_sound(root / genre / f"{genre}.{index:05d}.wav", SECOND + 40 * index, SECOND)
    return root


def test_excerpts_are_clips_genres_are_labels(tree: Path) -> None:
    data = gtzan(duration_s=1.0)
    assert isinstance(data, Dataset)
    assert [(e.clip_id, e.group, e.labels) for e in data.entries] == [
        (f"{genre}.{index:05d}", f"{genre}.{index:05d}", (genre,)) for genre in LABELS for index in (0, 54)
    ]
    assert data[0].waveform.shape == (SECOND,)
    assert data.notes == (
        "This copy lists 20 clips; 1000 were published.",
        "10 of 20 clips were cropped or zero-padded to 1 s: 10 cropped by up to 0.098 s.",
    )
    assert {entry.n_samples for entry in gtzan().entries} == {30 * SECOND}


@pytest.mark.parametrize("place", ["copy/genres_original", "copy/genres", "copy", "copy/deeper"])
def test_each_copy_that_goes_around_is_understood(tree: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    tree.rename(tmp_path / place)
    assert len(gtzan(folder=tmp_path / "copy", duration_s=1.0)) == 20


def test_the_excerpt_that_is_known_to_be_damaged_is_left_out_and_named(tree: Path) -> None:
    assert "jazz.00054" in {e.clip_id for e in gtzan(duration_s=1.0).entries}
    (tree / "jazz" / "jazz.00054.wav").write_bytes(b"\0" * 1000)
    data = gtzan(duration_s=1.0)
    assert len(data) == 19
    assert "jazz.00054" not in {e.clip_id for e in data.entries}
    assert any("jazz.00054.wav" in note and "known to be damaged" in note for note in data.notes)
    (tree / "rock" / "rock.00000.wav").write_bytes(b"\0" * 1000)
    with pytest.raises(AudioError, match=r"1 of 20 files cannot be used: rock/rock\.00000\.wav"):
        gtzan(duration_s=1.0)


def test_segments_are_cut_end_to_end_and_share_the_group_of_their_excerpt(tree: Path) -> None:
    data = gtzan(duration_s=1.0, segment_s=0.3)
    assert len(data) == 60
    assert [(e.clip_id, e.group) for e in data.entries[:3]] == [
        ("blues.00000@0s", "blues.00000"),
        ("blues.00000@0.3s", "blues.00000"),
        ("blues.00000@0.6s", "blues.00000"),
    ]
    whole = read_mono(tree / "blues" / "blues.00000.wav", SECOND, SECOND)
    assert torch.equal(torch.cat([data[i].waveform for i in range(3)]), whole[: 3 * 6615])
    assert len({entry.fingerprint for entry in data.entries}) == 60
    with pytest.raises(DatasetError, match="segments of 2 s do not fit"):
        gtzan(duration_s=1.0, segment_s=2)


def test_the_fault_filtered_split_is_the_one_of_torchaudio(tmp_path: Path) -> None:
    from torchaudio.datasets import gtzan as theirs

    root = tmp_path / "whole"
    content = write_sound(tmp_path / "tiny.wav", 221, SECOND).read_bytes()
    for genre in LABELS:
        (root / genre).mkdir(parents=True)
        for index in range(100):
            (root / genre / f"{genre}.{index:05d}.wav").write_bytes(content)
    splits = {
        split: gtzan(folder=root, split=split, duration_s=0.01)  # type: ignore[arg-type]
        for split in ("training", "validation", "test")
    }
    assert {split: len(data) for split, data in splits.items()} == {"training": 443, "validation": 197, "test": 290}
    for split, names in (
        ("training", theirs.filtered_train),
        ("validation", theirs.filtered_valid),
        ("test", theirs.filtered_test),
    ):
        assert [entry.clip_id for entry in splits[split].entries] == names
    assert list(LABELS) == theirs.gtzan_genres
    assert len(gtzan(folder=root, duration_s=0.01)) == 1000
    (root / "blues" / f"{theirs.filtered_test[0]}.wav").unlink()
    with pytest.raises(DatasetError, match=r"lacks 1 of 290 excerpts of the fault-filtered test split: blues\.00012"):
        gtzan(folder=root, split="test")


def test_misplaced_and_repeated_excerpts_are_refused(tree: Path) -> None:
    write_sound(tree / "jazz" / "rock.00001.wav", 100, SECOND)
    with pytest.raises(DatasetError, match=r"jazz/rock\.00001\.wav is in the wrong folder"):
        gtzan()
    (tree / "jazz" / "rock.00001.wav").unlink()
    (tree / "jazz" / "jazz.00000.au").touch()
    with pytest.raises(DatasetError, match=r"has jazz\.00000 twice: jazz/jazz\.00000\.au and jazz/jazz\.00000\.wav"):
        gtzan()


def test_where_it_is_not_there_it_is_said_that_it_has_no_licence(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data/gtzan or .*GTZAN or .*no licence that would let us fetch it"):
        gtzan()
    (tmp_path / "data" / "gtzan" / "blues").mkdir(parents=True)
    with pytest.raises(DatasetError, match="split is one of training, validation, test; got 'valid'"):
        gtzan(split="valid")  # type: ignore[arg-type]
