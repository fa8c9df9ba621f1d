"""UrbanSound8K, on a tree of its layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from earwitness.clips import Dataset
from earwitness.errors import DatasetError
from earwitness_bench.datasets import urbansound8k as module
from earwitness_bench.datasets.urbansound8k import LABELS, urbansound8k
from sounds import write_sound

ROWS = [  # name, fsID, fold, classID, frames, rate, channels
    ("100032-3-0-0.wav", "100032", 5, 3, 14000, 44100, 2),
    ("100263-2-0-117.wav", "100263", 5, 2, 8000, 8000, 1),
    ("100263-2-0-121.wav", "100263", 5, 2, 48000, 48000, 1),
    ("180937-7-2-6.wav", "180937", 1, 7, 44100, 44100, 1),
    ("180937-4-1-54.wav", "180937", 9, 4, 44100, 44100, 1),
    ("24074-1-0-3.wav", "24074", 10, 1, 30000, 22050, 2),
]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EARWITNESS_DATA", str(tmp_path / "data"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "UrbanSound8K"
    lines = ["slice_file_name,fsID,start,end,salience,fold,classID,class"]
    for name, recording, fold, number, n_frames, rate, channels in ROWS:
        write_sound(root / "audio" / f"fold{fold}" / name, n_frames, rate, channels=channels)
        lines.append(f"{name},{recording},0.0,1.0,1,{fold},{number},{LABELS[number]}")
    (root / "audio" / "fold5" / ".DS_Store").touch()
    (root / "metadata").mkdir()
    (root / "metadata" / "UrbanSound8K.csv").write_text("\n".join(lines) + "\n")
    return root


def test_clips_are_mono_at_one_rate_and_grouped_by_recording(tree: Path) -> None:
    data = urbansound8k(duration_s=1.0)
    assert isinstance(data, Dataset)
    assert len(data.labels) == 10
    assert [(e.clip_id, e.group, e.labels) for e in data.entries] == [
        (name.removesuffix(".wav"), recording, (LABELS[number],)) for name, recording, _, number, *_ in ROWS
    ]
    assert {data[i].waveform.shape for i in range(6)} == {(44100,)}
    assert data.rate == 44100
    assert data[0].waveform[14001:].abs().max() == 0
    assert data.notes == (
        "This copy lists 6 clips; 8732 were published.",
        "As published, 1 recordings have clips of different classes in different folds: 180937.",
        "2 of 6 clips were cropped or zero-padded to 1 s: 1 cropped by up to 0.361 s, 1 zero-padded by up to 0.683 s.",
    )


def test_the_ten_official_folds_can_be_chosen(tree: Path) -> None:
    assert [e.clip_id for e in urbansound8k(folds=[10, 1]).entries] == ["180937-7-2-6", "24074-1-0-3"]
    assert {e.n_samples for e in urbansound8k().entries} == {4 * 44100}
    with pytest.raises(DatasetError, match=r"folds is a list of some of 1, 2, .*, 10; got 5"):
        urbansound8k(folds=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dog_bark", "bark", r"line 2: there is no class 'bark'"),
        (",3,dog_bark", ",4,dog_bark", r"classID 4 is 'drilling', not 'dog_bark'"),
        ("121.wav,100263,0.0,1.0,1,5", "121.wav,100263,0.0,1.0,1,6", r"\(100263\) are in more than one fold"),
        ("121.wav,100263,0.0,1.0,1,5", "121.wav,100263,0.0,1.0,1,11", "fold is a number from 1 to 10, not '11'"),
        ("100032-3-0-0.wav", "100032-3-0-1.wav", r"has 5 of 6 files .*audio/fold5/100032-3-0-1\.wav missing"),
        ("fsID", "recording", "needs the columns slice_file_name, fsID"),
    ],
)
def test_a_table_that_is_not_the_published_one_is_refused(tree: Path, old: str, new: str, message: str) -> None:
    table = tree / "metadata" / "UrbanSound8K.csv"
    content = table.read_text()
    assert old in content
    table.write_text(content.replace(old, new))
    with pytest.raises(DatasetError, match=message):
        urbansound8k()


def test_where_it_is_not_there_it_is_said_how_to_get_it_or_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        DatasetError, match=r"data/urbansound8k or .*UrbanSound8K or .*earwitness download urbansound8k"
    ):
        urbansound8k()
    fetched: list[Path] = []

    def publication(remotes: object, folder: Path, **_: object) -> Path:
        assert remotes == module.PUBLISHED.remotes
        fetched.append(folder)
        folder.mkdir(parents=True)
        return folder

    monkeypatch.setattr("earwitness_bench.datasets.fetch.publication", publication)
    with pytest.raises(DatasetError, match="not the published layout"):
        urbansound8k(download=True)
    assert fetched == [tmp_path / "cache" / "earwitness" / "urbansound8k"]
