"""ESC-50, on a tree of its layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from earwitness.clips import Dataset
from earwitness.errors import AudioError, DatasetError
from earwitness_bench.datasets.esc10 import ESC10, read_manifest
from earwitness_bench.datasets.esc50 import COLUMNS, LABELS, esc50
from sounds import write_sound

ROWS = [  # fold, source, take, target, esc10
    (1, "100032", "A", 0, True),
    (1, "17367", "A", 10, True),
    (1, "17367", "B", 10, True),
    (2, "134049", "A", 6, False),
    (3, "134049", "A", 1, True),
    (5, "9032", "A", 49, False),
]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EARWITNESS_DATA", str(tmp_path / "data"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "esc50"
    lines = [",".join(COLUMNS)]
    for fold, source, take, target, esc10 in ROWS:
        name = f"{fold}-{source}-{take}-{target}.wav"
        write_sound(root / "audio" / name, 2205, 44100)
        lines.append(f"{name},{fold},{target},{LABELS[target]},{esc10},{source},{take}")
    (root / "meta").mkdir()
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def edit(tree: Path, old: str, new: str) -> None:
    table = tree / "meta" / "esc50.csv"
    content = table.read_text()
    assert old in content
    table.write_text(content.replace(old, new))


def test_clips_come_in_the_order_of_the_table_with_fold_source_and_class(tree: Path) -> None:
    data = esc50(duration_s=0.05)
    assert isinstance(data, Dataset)
    assert data.folder == tree
    assert len(set(data.labels)) == 50
    assert [(e.clip_id, e.group, e.labels) for e in data.entries] == [
        (f"{fold}-{source}-{take}-{target}", source, (LABELS[target],)) for fold, source, take, target, _ in ROWS
    ]
    clip = data[3]
    assert (clip.clip_id, clip.group, clip.labels, clip.rate) == ("2-134049-A-6", "134049", ("hen",), 44100)
    assert clip.waveform.shape == (2205,)
    assert data.notes == (
        "This copy lists 6 clips; 2000 were published.",
        "As published, 1 recordings have clips of different classes in different folds: 134049.",
    )


def test_folds_are_the_published_ones(tree: Path) -> None:
    assert [e.clip_id for e in esc50(folds=[5, 2]).entries] == ["2-134049-A-6", "5-9032-A-49"]
    with pytest.raises(DatasetError, match="esc50: folds is a list of some of 1, 2, 3, 4, 5"):
        esc50(folds=[6])
    with pytest.raises(DatasetError, match="no clip of what was asked for"):
        esc50(folds=[4])


def test_clips_are_five_seconds_unless_asked_otherwise_and_it_is_said(tree: Path) -> None:
    data = esc50()
    assert {entry.n_samples for entry in data.entries} == {220500}
    assert data.notes[-1].startswith("6 of 6 clips were cropped or zero-padded to 5 s: 6 zero-padded by up to 4.95 s")


def test_esc10_reads_the_same_table_and_gives_its_clips_the_same_ids(tree: Path) -> None:
    published = {row.clip_id for row in read_manifest()}
    own = {f"{fold}-{source}-{take}-{target}" for fold, source, take, target, esc10 in ROWS if esc10}
    assert len(own & published) == 3
    with pytest.raises(DatasetError, match="has the layout of ESC-50, but 3 of 400 clips"):
        ESC10(folder=tree)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dog", "dgo", r"line 2: there is no category 'dgo'\. Did you mean 'dog'"),
        (",0,dog", ",1,dog", r"line 2: target 1 is 'rooster', not 'dog'"),
        (",0,dog", ",50,dog", r"target is a number from 0 to 49, not '50'"),
        ("A-0.wav,1,", "A-0.wav,six,", r"fold is a number from 1 to 5, not 'six'"),
        ("1-100032-A-0.wav", "../1-100032-A-0.wav", "is the name of a file"),
        ("1-17367-B-10.wav,1,10,rain,True,17367,B", "1-17367-A-10.wav,1,10,rain,True,17367,A", "more than once"),
        ("1-17367-B-10.wav,1,", "1-17367-B-10.wav,2,", r"one recording \(17367\) are in more than one fold"),
        ("category", "class", "needs the columns"),
        ("1-100032-A-0.wav", "1-100033-A-0.wav", r"has 5 of 6 files .*audio/1-100033-A-0\.wav missing"),
    ],
)
def test_a_table_that_is_not_the_published_one_is_refused(tree: Path, old: str, new: str, message: str) -> None:
    edit(tree, old, new)
    with pytest.raises(DatasetError, match=message):
        esc50()


def test_a_damaged_clip_is_named(tree: Path) -> None:
    path = tree / "audio" / "5-9032-A-49.wav"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(AudioError, match=r"1 of 6 files cannot be used: audio/5-9032-A-49\.wav\. .*truncated"):
        esc50()
    assert len(esc50(folds=[1])) == 3


def test_where_it_is_not_there_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"data/esc50 or .*cache/earwitness/esc50\. .*earwitness download esc50"):
        esc50()
    (tmp_path / "data" / "esc50").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"Expected meta/esc50\.csv; found nothing"):
        esc50()
