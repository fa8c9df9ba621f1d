"""Which folder an explanation goes to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from earwitness.output_folder import folders_of, seen_from


def hold(folder: Path, recording: Path) -> None:
    """As if this recording had been explained to this folder."""
    folder.mkdir(parents=True)
    (folder / "explanation.json").write_text(json.dumps({"recording": seen_from(folder, recording)}))


def names(recordings: list[Path], out: Path) -> list[str]:
    folders = folders_of(recordings, out)
    assert {folder.parent for folder in folders} == {out}
    return [folder.name for folder in folders]


def test_recordings_of_one_name_are_numbered_also_where_a_number_is_a_name(tmp_path: Path) -> None:
    given = [tmp_path / name for name in ("a/dog.wav", "b/dog.wav", "a/dog-2.wav", "cat.wav", "a/dog.flac")]
    assert names(given, tmp_path / "out") == ["dog", "dog-2", "dog-2-2", "cat", "dog-3"]


def test_one_recording_given_twice_gets_two_folders_and_the_same_two_again(tmp_path: Path) -> None:
    given = [tmp_path / "dog.wav", tmp_path / "dog.wav"]
    assert names(given, tmp_path / "out") == ["dog", "dog-2"]
    for folder in folders_of(given, tmp_path / "out"):
        hold(folder, given[0])
    assert names(given, tmp_path / "out") == ["dog", "dog-2"]


def test_a_recording_goes_to_the_folder_that_holds_it_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    hold(out / "dog", tmp_path / "a" / "dog.wav")
    hold(out / "dog-7", tmp_path / "b" / "dog.wav")
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "b")
    assert names([Path("dog.wav"), tmp_path / "a" / "dog.wav"], Path("../out")) == ["dog-7", "dog"]
    assert names([tmp_path / "c" / "dog.wav"], out) == ["dog-2"]


def test_a_project_that_is_moved_is_known_again(tmp_path: Path) -> None:
    hold(tmp_path / "old" / "out" / "dog-2", tmp_path / "old" / "dog.wav")
    (tmp_path / "old").rename(tmp_path / "new")
    assert names([tmp_path / "new" / "dog.wav"], tmp_path / "new" / "out") == ["dog-2"]
    assert names([tmp_path / "old" / "dog.wav"], tmp_path / "new" / "out") == ["dog"]


def test_an_explanation_that_somebody_renamed_is_kept(tmp_path: Path) -> None:
    hold(tmp_path / "out" / "dog-favourite", tmp_path / "dog.wav")
    assert names([tmp_path / "dog.wav"], tmp_path / "out") == ["dog"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recording": 3}', "not json"])
def test_an_explanation_that_does_not_say_whose_it_is_is_taken_for_anothers(text: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "dog").mkdir(parents=True)
    (tmp_path / "out" / "dog" / "explanation.json").write_text(text)
    assert names([tmp_path / "dog.wav"], tmp_path / "out") == ["dog-2"]


def test_a_folder_without_an_explanation_is_free(tmp_path: Path) -> None:
    (tmp_path / "out" / "dog").mkdir(parents=True)
    (tmp_path / "out" / "dog" / "mine.txt").touch()
    assert names([tmp_path / "dog.wav"], tmp_path / "out") == ["dog"]


def test_a_name_with_wildcards_is_only_a_name(tmp_path: Path) -> None:
    hold(tmp_path / "out" / "dog-3", tmp_path / "[d]og.wav")
    assert names([tmp_path / "[d]og.wav"], tmp_path / "out") == ["[d]og"]


def test_a_link_that_leads_nowhere_gets_a_folder_and_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    (tmp_path / "dog.wav").symlink_to(tmp_path / "dog.wav")
    assert names([tmp_path / "dog.wav"], tmp_path / "out") == ["dog"]
