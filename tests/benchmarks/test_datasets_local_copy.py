"""What local copies of published data sets share: looking at files, reading tables, finding folders."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from earwitness.clips import Dataset
from earwitness.errors import AudioError, DatasetError
from earwitness_bench.datasets import survey as surveys
from earwitness_bench.datasets.folds import fold_notes
from earwitness_bench.datasets.local_copy import LocalCopy, Take, below, choice, find_folder, samples
from earwitness_bench.datasets.recordings import read_mono
from earwitness_bench.datasets.survey import survey
from earwitness_bench.datasets.tables import read_table
from sounds import age, write_sound


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EARWITNESS_DATA", raising=False)
    return tmp_path / "cache" / "earwitness"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav"):
        write_sound(tmp_path / "tree" / name, 800, 8000, settled=True)
    return tmp_path / "tree"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of files that are really opened."""
    opened: list[str] = []
    real = surveys._look
    monkeypatch.setattr(surveys, "_look", lambda path: opened.append(path.name) or real(path))
    return opened


def test_a_file_is_looked_at_once_until_it_changes(tree: Path, looks: list[str]) -> None:
    first = survey(tree, ["a.wav", "b.wav"])
    assert first.sounds["a.wav"].sha256 == hashlib.sha256((tree / "a.wav").read_bytes()).hexdigest()
    assert (first.sounds["a.wav"].rate, first.sounds["a.wav"].n_frames) == (8000, 800)
    assert sorted(looks) == ["a.wav", "b.wav"]
    assert survey(tree, ["b.wav", "a.wav"]).sounds == first.sounds
    assert len(looks) == 2
    write_sound(tree / "b.wav", 900, 8000, settled=True)
    assert survey(tree, ["a.wav", "b.wav"]).sounds["b.wav"].n_frames == 900
    assert looks[2:] == ["b.wav"]


def test_a_file_of_the_same_size_that_changed_later_is_looked_at_again(tree: Path, looks: list[str]) -> None:
    before = survey(tree, ["a.wav"]).sounds["a.wav"]
    content = bytearray((tree / "a.wav").read_bytes())
    content[-1] ^= 1
    (tree / "a.wav").write_bytes(content)
    age(tree / "a.wav", 60)
    assert survey(tree, ["a.wav"]).sounds["a.wav"].sha256 != before.sha256


def test_a_file_that_has_just_changed_is_not_remembered(tree: Path, looks: list[str]) -> None:
    write_sound(tree / "c.wav", 800, 8000)
    for _ in range(2):
        survey(tree, ["a.wav", "c.wav"])
    assert looks.count("c.wav") == 2
    assert looks.count("a.wav") == 1


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"schema": 0, "files": {}}', b'{"schema": 1, "files": {"a.wav": 3}}']
)
def test_a_damaged_memory_is_forgotten(tree: Path, cache: Path, looks: list[str], content: bytes) -> None:
    survey(tree, ["a.wav"])
    (memory,) = (cache / "surveys").iterdir()
    memory.write_bytes(content)
    assert survey(tree, ["a.wav"]).sounds["a.wav"].n_frames == 800
    assert json.loads(memory.read_bytes())["schema"] == 1


def test_a_cache_that_cannot_be_written_costs_time_only(tree: Path, cache: Path, looks: list[str]) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert survey(tree, ["a.wav"]).sounds == survey(tree, ["a.wav"]).sounds
    assert looks == ["a.wav", "a.wav"]


def test_missing_files_are_named_and_damaged_ones_are_told_apart(tree: Path) -> None:
    with pytest.raises(DatasetError, match=r"has 1 of 5 files .*c\.wav, d\.wav, e\.wav and 1 more missing"):
        survey(tree, ["a.wav", "c.wav", "d.wav", "e.wav", "f.wav"])
    (tree / "text.wav").write_text("no sound")
    found = survey(tree, ["a.wav", "text.wav"])
    assert list(found.sounds) == ["a.wav"]
    assert "not a sound file" in str(found.damaged["text.wav"])


def takes(*paths: str) -> list[Take]:
    return [Take(path, path, "x", path) for path in paths]


def test_clips_have_one_length_and_say_what_it_cost(tree: Path) -> None:
    write_sound(tree / "long.wav", 1600, 8000)
    data = LocalCopy(tree, takes("a.wav", "long.wav"), labels=["x"], rate=8000, n_samples=1000, notes=["said before"])
    assert isinstance(data, Dataset)
    assert data.notes == (
        "said before",
        "2 of 2 clips were cropped or zero-padded to 0.125 s: 1 cropped by up to 0.075 s, 1 zero-padded by up to "
        "0.025 s.",
    )
    assert {clip.waveform.shape for clip in map(data.__getitem__, range(2))} == {(1000,)}
    assert data[0].waveform[800:].abs().max() == 0
    assert data[0].labels == ("x",)
    with pytest.raises(IndexError):
        data[2]


def test_a_clip_from_the_middle_of_a_file_is_that_part_of_it(tree: Path) -> None:
    parts = [Take(f"a@{start}", "a", "x", "a.wav", start) for start in (0, 300, 700)]
    data = LocalCopy(tree, parts, labels=["x"], rate=8000, n_samples=300)
    whole = read_mono(tree / "a.wav", 8000, 1000)
    for index, start in enumerate((0, 300, 700)):
        assert torch.equal(data[index].waveform, whole[start : start + 300])
    assert len({entry.fingerprint for entry in data.entries}) == 3


def test_the_fingerprint_follows_the_content_and_not_the_place(tree: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path, *, n_samples: int = 500, rate: int = 8000) -> str:
        return LocalCopy(folder, takes("a.wav"), labels=["x"], rate=rate, n_samples=n_samples).entries[0].fingerprint

    before = fingerprint(tree)
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "a.wav").write_bytes((tree / "a.wav").read_bytes())
    assert fingerprint(tmp_path / "moved") == before
    assert fingerprint(tree, n_samples=501) != before
    assert fingerprint(tree, rate=16000) != before
    write_sound(tree / "a.wav", 801, 8000)
    assert fingerprint(tree) != before


def test_damaged_files_stop_it_unless_they_are_known(tree: Path) -> None:
    (tree / "bad.wav").write_text("no sound")
    with pytest.raises(AudioError, match=r"1 of 2 files cannot be used: bad\.wav\. .*not a sound file"):
        LocalCopy(tree, takes("a.wav", "bad.wav"), labels=["x"], rate=8000, n_samples=800)
    data = LocalCopy(
        tree, takes("a.wav", "bad.wav"), labels=["x"], rate=8000, n_samples=800, known_damaged={"bad.wav": "As known."}
    )
    assert len(data) == 1
    assert len(data.notes) == 1
    assert data.notes[0].startswith("Left out: ")
    assert data.notes[0].endswith("As known.")
    with pytest.raises(DatasetError, match=r"nothing is left without bad\.wav"):
        LocalCopy(
            tree, takes("bad.wav"), labels=["x"], rate=8000, n_samples=800, known_damaged={"bad.wav": "As known."}
        )


def test_repeated_and_absent_clips_are_refused(tree: Path) -> None:
    with pytest.raises(DatasetError, match=r"more than once: a\.wav"):
        LocalCopy(tree, takes("a.wav", "b.wav", "a.wav"), labels=["x"], rate=8000, n_samples=800)
    with pytest.raises(DatasetError, match="no clip of what was asked for"):
        LocalCopy(tree, [], labels=["x"], rate=8000, n_samples=800)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "needs the columns name, size; it has none"),
        (b"name,other\na,b\n", "needs the columns name, size; it has name, other"),
        (b"name,size\n", "a header and no lines"),
        (b"name,size\na,1\nb\n", "line 3: it has fewer values"),
        (b"name,size\n\xff\xfe,1\n", "not a table of comma-separated values"),
    ],
)
def test_a_corrupt_table_is_refused_by_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_table(tmp_path / "t.csv", ("name", "size"))


def test_values_of_a_table_are_checked_where_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffsize,name,kind\n11, ../a.wav ,dgo\n", encoding="utf-8")
    (line,) = read_table(tmp_path / "t.csv", ("name", "size", "kind"))
    with pytest.raises(DatasetError, match=r"t\.csv, line 2: size is a number from 1 to 10, not '11'\. Is it the"):
        line.integer("size", range(1, 11))
    with pytest.raises(DatasetError, match=r"there is no kind 'dgo'\. Did you mean 'dog'\? Is it"):
        line.one_of("kind", ("dog", "cat"))
    with pytest.raises(DatasetError, match=r"name is the name of a file, not '\.\./a\.wav'"):
        line.file_name("name")
    assert line.integer("size", range(12)) == 11
    with pytest.raises(DatasetError, match="Cannot read"):
        read_table(tmp_path / "none.csv", ("name",))


def test_a_folder_is_looked_for_where_it_was_said_and_then_in_the_usual_places(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(given: Path | None = None, **options: object) -> Path:
        return find_folder("set", given, advice="Fetch it.", aliases=("Set-1.0",), **options)  # type: ignore[arg-type]

    with pytest.raises(DatasetError, match=r"set is not at .*earwitness/set\. Give its folder .*Fetch it\."):
        find()
    (cache / "set").mkdir(parents=True)
    assert find() == cache / "set"
    monkeypatch.setenv("EARWITNESS_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "Set-1.0").mkdir(parents=True)
    assert find() == tmp_path / "data" / "Set-1.0"
    (tmp_path / "data" / "set").mkdir()
    assert find() == tmp_path / "data" / "set"
    assert find(tmp_path) == tmp_path
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        find(tmp_path / "nowhere")
    assert find(tmp_path / "nowhere", fetch=lambda folder: folder / "fetched") == tmp_path / "nowhere" / "fetched"
    assert find(fetch=lambda folder: folder / "fetched") == tmp_path / "data" / "set"


def test_a_data_set_is_found_in_the_folder_it_was_unpacked_to(tmp_path: Path) -> None:
    (tmp_path / "ESC-50-master" / "meta").mkdir(parents=True)
    (tmp_path / "ESC-50-master" / "meta" / "t.csv").touch()
    assert below(tmp_path, "set", "none.csv", "meta/t.csv") == (tmp_path / "ESC-50-master", "meta/t.csv")
    (tmp_path / "copy" / "meta").mkdir(parents=True)
    (tmp_path / "copy" / "meta" / "t.csv").touch()
    with pytest.raises(DatasetError, match="more than once: ESC-50-master, copy"):
        below(tmp_path, "set", "meta/t.csv")
    with pytest.raises(DatasetError, match=r"has not the published layout\. Expected x or y; found 2 folders"):
        below(tmp_path, "set", "x", "y")


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), float("inf"), 3601, True, "5"])
def test_a_length_that_is_none_is_refused(seconds: object) -> None:
    with pytest.raises(DatasetError, match="set: duration_s is a length in seconds"):
        samples("set", "duration_s", seconds, 8000)  # type: ignore[arg-type]


@pytest.mark.parametrize("folds", [[], [0], [6], "1", 5, [1, "2"]])
def test_folds_that_are_none_are_refused(folds: object) -> None:
    with pytest.raises(DatasetError, match="set: folds is a list of some of 1, 2, 3"):
        choice("set", "folds", folds, (1, 2, 3))  # type: ignore[arg-type]


def test_shuffled_folds_are_refused_and_published_oddities_said_aloud() -> None:
    def clip(group: str, label: str) -> Take:
        return Take("", group, label, "")

    odd = [(1, clip("7", "hen")), (2, clip("7", "rooster")), (2, clip("8", "hen")), (2, clip("8", "hen"))]
    assert list(fold_notes(Path("t"), odd)) == [
        "As published, 1 recordings have clips of different classes in different folds: 7."
    ]
    assert list(fold_notes(Path("t"), odd[1:])) == []
    with pytest.raises(DatasetError, match=r"one recording \(8\) are in more than one fold"):
        list(fold_notes(Path("t"), [*odd, (3, clip("8", "hen"))]))
