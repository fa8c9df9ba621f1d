"""Downloads: whole, checked and in place, or not at all."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from earwitness.downloads import cache_folder, download, sha256_of
from earwitness.errors import DownloadError
from loopback import serving

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(CONTENT)
    with serving(folder) as address:
        yield address


def test_a_file_comes_whole_with_its_progress_and_readable_for_all(served: str, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "deep" / "er" / "weights.pt"
    got = download(
        f"{served}/weights.pt", target, max_bytes=len(CONTENT), sha256=SHA256, progress=lambda *p: seen.append(p)
    )
    assert got == target
    assert target.read_bytes() == CONTENT
    assert sha256_of(target) == SHA256
    assert target.stat().st_mode & 0o777 == 0o644
    assert [received for received, _ in seen] == sorted(received for received, _ in seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in target.parent.iterdir()] == ["weights.pt"]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("weights.pt", {"sha256": "0" * 64}, f"not the file that was published: its SHA-256 is {SHA256}"),
        ("weights.pt", {"max_bytes": len(CONTENT) - 1}, "has more than 255999 bytes"),
        ("nothing.pt", {}, "Cannot download .*nothing.pt.*ot found"),
    ],
)
def test_what_is_not_the_published_file_leaves_the_old_one_as_it_was(
    served: str, tmp_path: Path, path: str, options: dict[str, object], message: str
) -> None:
    target = tmp_path / "here" / "weights.pt"
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(DownloadError, match=message):
        download(f"{served}/{path}", target, **{"max_bytes": 10**6, "sha256": SHA256, **options})  # type: ignore[arg-type]
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["weights.pt"]


def test_half_a_file_is_said_to_be_half(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "weights.pt").write_bytes(CONTENT)
    with (
        serving(tmp_path / "served", breaks_off=True) as address,
        pytest.raises(DownloadError, match="broke off after 128000 of 256000 bytes"),
    ):
        download(f"{address}/weights.pt", tmp_path / "here" / "weights.pt", max_bytes=10**6, sha256=SHA256)
    assert list((tmp_path / "here").iterdir()) == []


def test_no_network_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DownloadError, match=r"Cannot download http://127\.0\.0\.1:9/x.*Is there a network"):
        download("http://127.0.0.1:9/x", tmp_path / "x", max_bytes=1)
    monkeypatch.setattr(
        "urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(http.client.BadStatusLine("nonsense"))
    )
    with pytest.raises(DownloadError, match="nonsense"):
        download("http://127.0.0.1:9/x", tmp_path / "x", max_bytes=1)
    assert list(tmp_path.iterdir()) == []


def test_other_addresses_than_web_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(DownloadError, match="https://"):
        download((tmp_path / "a").as_uri(), tmp_path / "b", max_bytes=1)


def test_a_place_that_cannot_be_written_is_named(served: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"Cannot write .*file/weights\.pt"):
        download(f"{served}/weights.pt", tmp_path / "file" / "weights.pt", max_bytes=10**6)


def test_the_cache_is_where_the_desktop_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("models") == tmp_path / "earwitness" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("models") == tmp_path / "home" / ".cache" / "earwitness" / "models"
