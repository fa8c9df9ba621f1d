"""Speech Commands, on a tree of its layout."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from earwitness.clips import Dataset
from earwitness.errors import DatasetError
from earwitness_bench.datasets.speech_commands import PUBLISHED, WORDS, speech_commands, which_set
from sounds import write_sound

RECORDINGS = {
    "yes/0a7c2a8d_nohash_0.wav": "training",
    "yes/0a7c2a8d_nohash_1.wav": "training",
    "no/0a7c2a8d_nohash_0.wav": "training",
    "yes/b00dff7e_nohash_0.wav": "validation",
    "backward/b00dff7e_nohash_0.wav": "validation",
    "no/c1d39ce8_nohash_0.wav": "testing",
}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EARWITNESS_DATA", str(tmp_path / "data"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "data" / "SpeechCommands" / "speech_commands_v0.02"
    for index, path in enumerate(RECORDINGS):
        write_sound(root / path, 12000 if index == 0 else 16000, 16000)
    write_sound(root / "_background_noise_" / "pink_noise.wav", 32000, 16000)
    for split, name in (("validation", "validation_list.txt"), ("testing", "testing_list.txt")):
        (root / name).write_text("".join(f"{path}\n" for path, own in RECORDINGS.items() if own == split))
    return root


def test_words_are_labels_speakers_are_groups_and_noise_is_left_out(tree: Path) -> None:
    data = speech_commands()
    assert isinstance(data, Dataset)
    assert len(data.labels) == 35
    assert list(data.labels) == sorted(data.labels)
    assert [(e.clip_id, e.group, e.labels) for e in data.entries] == [
        (path.removesuffix(".wav"), path.split("/")[1][:8], (path.split("/")[0],)) for path in sorted(RECORDINGS)
    ]
    assert {data[i].waveform.shape for i in range(len(data))} == {(16000,)}
    assert data.notes == (
        "This copy lists 6 clips; 105829 were published.",
        "1 of 6 clips were cropped or zero-padded to 1 s: 1 zero-padded by up to 0.25 s.",
    )


@pytest.mark.parametrize("split", ["training", "validation", "testing"])
def test_splits_are_those_of_the_published_lists(tree: Path, split: str) -> None:
    own = [path.removesuffix(".wav") for path in sorted(RECORDINGS) if RECORDINGS[path] == split]
    assert [e.clip_id for e in speech_commands(split=split).entries] == own  # type: ignore[arg-type]


def test_without_lists_the_documented_hash_decides_and_it_is_said(tree: Path) -> None:
    for name in ("validation_list.txt", "testing_list.txt"):
        (tree / name).unlink()
    found = {}
    for split in ("training", "validation", "testing"):
        try:
            data = speech_commands(split=split)  # type: ignore[arg-type]
        except DatasetError:
            continue  # no recording of this tree
        assert "by the hash" in data.notes[0]
        found |= {f"{entry.clip_id}.wav": split for entry in data.entries}
    assert found == {path: which_set(path) for path in RECORDINGS}


def test_the_hash_is_the_one_of_the_readme() -> None:
    counts = {"training": 0, "validation": 0, "testing": 0}
    for index in range(4000):
        speaker = f"{index:08x}"
        percent = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % 2**27 * 100 / (2**27 - 1)
        expected = "validation" if percent < 10 else "testing" if percent < 20 else "training"
        assert which_set(f"yes/{speaker}_nohash_3.wav") == which_set(f"{speaker}_nohash_0.wav") == expected
        counts[expected] += 1
    assert 360 < counts["validation"] < 440
    assert 360 < counts["testing"] < 440
    assert which_set("0a7c2a8d_nohash_0.wav", validation=100) == "validation"
    assert which_set("0a7c2a8d_nohash_0.wav", validation=0, testing=0) == "training"


def test_some_words_can_be_taken_in_an_order(tree: Path) -> None:
    data = speech_commands(words=["yes", "backward"], split="validation")
    assert data.labels == ("yes", "backward")
    assert [e.labels for e in data.entries] == [("backward",), ("yes",)]
    with pytest.raises(DatasetError, match=r"version 0\.02 has no word 'yse'\. Did you mean 'yes'"):
        speech_commands(words=["yse"])
    with pytest.raises(DatasetError, match="words is a list of words"):
        speech_commands(words="yes")


def test_version_one_has_thirty_words_and_folders_of_its_own(tree: Path) -> None:
    assert set(WORDS["0.02"]) - set(WORDS["0.01"]) == {"backward", "follow", "forward", "learn", "visual"}
    assert len(WORDS["0.01"]) == 30
    with pytest.raises(DatasetError, match=r"speech-commands-0\.01 or .*speech_commands_v0\.01 or"):
        speech_commands(version="0.01")
    for version, own in PUBLISHED.items():
        (remote,) = own.remotes
        assert remote.name == f"speech_commands_v{version}.tar.gz"
        assert remote.url.endswith(remote.name)


def test_the_checksums_are_those_that_torchaudio_uses() -> None:
    from torchaudio.datasets import speechcommands

    theirs = speechcommands._CHECKSUMS
    assert {remote.url: remote.checksum for own in PUBLISHED.values() for remote in own.remotes} == {
        url: f"sha256:{digest}" for url, digest in theirs.items()
    }


@pytest.mark.parametrize("parameters", [{"split": "test"}, {"version": "0.03"}, {"duration_s": 0}])
def test_parameters_out_of_range_are_refused(tree: Path, parameters: dict[str, object]) -> None:
    with pytest.raises(DatasetError, match=next(iter(parameters))):
        speech_commands(**parameters)  # type: ignore[arg-type]


def test_lists_that_do_not_fit_the_recordings_are_refused(tree: Path) -> None:
    lists = tree / "validation_list.txt", tree / "testing_list.txt"
    published = lists[0].read_text(), lists[1].read_text()
    lists[0].write_text(published[0] + "yes/ffffffff_nohash_0.wav\n")
    with pytest.raises(
        DatasetError, match=r"validation_list\.txt lists 3 .*yes/ffffffff_nohash_0\.wav of them missing"
    ):
        speech_commands()
    for wrong in (published[0] + published[1], published[0] * 2):
        lists[0].write_text(wrong)
        with pytest.raises(DatasetError, match=r"recordings more than once: "):
            speech_commands()
    lists[0].write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DatasetError, match="cannot be read as a list"):
        speech_commands()
    lists[0].unlink()
    with pytest.raises(DatasetError, match=r"has testing_list\.txt and lacks the other list"):
        speech_commands()


def test_strange_folders_are_named_and_strange_files_refused(tree: Path) -> None:
    write_sound(tree / "hello" / "0a7c2a8d_nohash_0.wav", 16000, 16000)
    assert "Left out, as version 0.02 has no such words: hello." in speech_commands().notes
    write_sound(tree / "yes" / "take 1.wav", 16000, 16000)
    with pytest.raises(DatasetError, match=r"yes/take 1\.wav do not, so it is not known who speaks"):
        speech_commands()


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "x.txt").touch()
    with pytest.raises(DatasetError, match=r"not the published layout\. Expected validation_list\.txt or"):
        speech_commands(folder=tmp_path / "cats")
