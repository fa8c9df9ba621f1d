"""Files that are whole in the end, or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from earwitness.errors import StoreError
from earwitness_bench.drafts import drafted


def test_a_draft_is_moved_to_the_name_that_it_has_in_the_end(tmp_path: Path) -> None:
    with drafted(tmp_path / "draft") as draft:
        draft.file.write(b"one")
        draft.file.write(b"two")
        draft.path = tmp_path / "onetwo"
        assert not draft.path.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["onetwo"]
    assert draft.path.read_bytes() == b"onetwo"


@pytest.mark.parametrize(("error", "raised"), [(KeyError("x"), KeyError), (OSError(28, "No space"), StoreError)])
def test_a_draft_that_breaks_off_leaves_what_was_there(
    tmp_path: Path, error: Exception, raised: type[Exception]
) -> None:
    (tmp_path / "kept").write_bytes(b"before")

    def write() -> None:
        with drafted(tmp_path / "kept") as draft:
            draft.file.write(b"half")
            raise error

    with pytest.raises(raised):
        write()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"Cannot write .*absent"), drafted(tmp_path / "absent" / "file"):
        pass
