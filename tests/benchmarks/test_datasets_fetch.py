"""Downloads of data sets: hostile, damaged and half archives leave nothing behind."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from earwitness.cli.shell import shell
from earwitness.errors import DatasetError
from earwitness_bench.commands.download import DOWNLOADS
from earwitness_bench.datasets import esc50, fetch, unpacking
from earwitness_bench.datasets.fetch import RECEIPT, Remote, publication
from earwitness_bench.datasets.soundata_index import file_checksums
from loopback import serving

FILES = {"audio/a.wav": b"sound a" * 100, "audio/b.wav": b"sound b" * 100, "README.txt": b"read me"}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EARWITNESS_DATA", raising=False)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as address:
        yield tmp_path / "served", address


def pack_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def pack_tar(path: Path, files: dict[str, bytes], *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


PACK: dict[str, Callable[..., Path]] = {".zip": pack_zip, ".tar.gz": pack_tar}


def remote(folder: Path, address: str, path: Path, *, algorithm: str = "md5") -> Remote:
    digest = hashlib.new(algorithm, path.read_bytes()).hexdigest()
    return Remote(f"{address}/{path.relative_to(folder)}", f"{algorithm}:{digest}", path.name)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != RECEIPT)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("top", ["", "Set-1.0/", "./", "./Set-1.0/"])
@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_an_archive_is_unpacked_whole_without_its_top_folder(
    served: tuple[Path, str], tmp_path: Path, kind: str, top: str, algorithm: str
) -> None:
    packed = PACK[kind](served[0] / f"set{kind}", {top + name: content for name, content in FILES.items()})
    seen: list[tuple[int, int | None]] = []
    target = publication(
        [remote(*served, packed, algorithm=algorithm)], tmp_path / "got" / "set", progress=lambda *p: seen.append(p)
    )
    assert contents(target) == FILES
    assert seen[-1] == (packed.stat().st_size, packed.stat().st_size)
    assert [path.name for path in target.parent.iterdir()] == ["set"]


def test_a_second_download_keeps_what_is_there(served: tuple[Path, str], tmp_path: Path) -> None:
    offer = remote(*served, pack_tar(served[0] / "set.tar.gz", FILES))
    target = publication([offer], tmp_path / "set")
    (served[0] / "set.tar.gz").unlink()
    assert publication([offer], target) == target
    with pytest.raises(DatasetError, match="not empty, and was not made by this download"):
        publication([Remote(offer.url, "md5:0", offer.name)], target)
    assert contents(target) == FILES


def test_files_beside_an_archive_are_put_beside_its_content(served: tuple[Path, str], tmp_path: Path) -> None:
    (served[0] / "table.csv").write_bytes(b"a,b\n")
    archive = pack_tar(served[0] / "set.tar.gz", {"a.wav": b"1", "b.wav": b"2", "._a.wav": b"junk", ".DS_Store": b""})
    offers = [remote(*served, served[0] / "table.csv"), remote(*served, archive)]
    assert contents(publication(offers, tmp_path / "set")) == {"a.wav": b"1", "b.wav": b"2", "table.csv": b"a,b\n"}
    clash = pack_tar(served[0] / "clash.tar.gz", {"table.csv": b"other", "x": b""})
    with pytest.raises(DatasetError, match=r"Two of the published files hold 'table\.csv'"):
        publication([offers[0], remote(*served, clash)], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_another_archive_than_the_published_one_is_not_opened(served: tuple[Path, str], tmp_path: Path) -> None:
    packed = pack_tar(served[0] / "set.tar.gz", FILES)
    for checksum in ("md5:" + "0" * 32, "sha256:" + "0" * 64):
        name = checksum.partition(":")[0].upper()
        with pytest.raises(DatasetError, match=f"not what was published: its {name} is [0-9a-f]+, expected 0+.*try"):
            publication([Remote(f"{served[1]}/set.tar.gz", checksum, packed.name)], tmp_path / "got" / "set")
    assert list((tmp_path / "got").iterdir()) == []


OUTSIDE = ("../escaped", "/escaped", "audio/../../escaped", "audio\\..\\..\\escaped", "C:\\escaped")


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", OUTSIDE)
def test_a_member_that_leads_out_refuses_the_archive(
    served: tuple[Path, str], tmp_path: Path, kind: str, name: str
) -> None:
    refused(served, tmp_path, PACK[kind](served[0] / f"set{kind}", {**FILES, name: b"x"}), "leads out of its folder")


@pytest.mark.parametrize(
    "type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_refuse_the_archive(served: tuple[Path, str], tmp_path: Path, type_: bytes) -> None:
    member = tarfile.TarInfo("audio/link")
    member.type, member.linkname = type_, "/etc/passwd"
    refused(served, tmp_path, pack_tar(served[0] / "set.tar.gz", FILES, member), "a link or a device")


def test_a_link_in_a_zip_refuses_the_archive(served: tuple[Path, str], tmp_path: Path) -> None:
    with zipfile.ZipFile(served[0] / "set.zip", "w") as archive:
        link = zipfile.ZipInfo("audio/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refused(served, tmp_path, served[0] / "set.zip", "a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", PACK)
def test_a_name_that_is_there_twice_refuses_the_archive(served: tuple[Path, str], tmp_path: Path, kind: str) -> None:
    packed = PACK[kind](served[0] / f"set{kind}", {"audio/a.wav": b"1", "./audio/a.wav": b"2"})
    refused(served, tmp_path, packed, r"'audio/a\.wav' twice")


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("limit", ["MAX_FILE_BYTES", "MAX_UNPACKED_BYTES", "MAX_FILES"])
def test_a_bomb_is_not_unpacked(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: str
) -> None:
    packed = PACK[kind](served[0] / f"set{kind}", {f"{i}.wav": bytes(500_000) for i in range(3)})
    assert packed.stat().st_size < 20_000
    monkeypatch.setattr(fetch, limit, {"MAX_FILE_BYTES": 400_000, "MAX_UNPACKED_BYTES": 10**6, "MAX_FILES": 2}[limit])
    refused(served, tmp_path, packed, "unpacks to .*not what was published")


@pytest.mark.parametrize("kind", PACK)
def test_a_damaged_archive_leaves_nothing_behind(served: tuple[Path, str], tmp_path: Path, kind: str) -> None:
    files = {"a.wav": bytes(range(256)) * 2000, "b.wav": b"x" * 9999}
    content = PACK[kind](served[0] / f"set{kind}", files).read_bytes()
    middle = len(content) // 2
    flipped = content[:middle] + bytes(40) + content[middle + 40 :]
    cases = {"cut": content[:middle], "page": b"<html>no</html>"} | ({"flipped": flipped} if kind == ".zip" else {})
    for name, damaged in cases.items():
        path = served[0] / f"{name}{kind}"
        path.write_bytes(damaged)
        refused(served, tmp_path, path, "is not a whole (zip|tar) archive")


def refused(served: tuple[Path, str], tmp_path: Path, packed: Path, message: str) -> None:
    """Even where the checksum is the published one."""
    with pytest.raises(DatasetError, match=message):
        publication([remote(*served, packed)], tmp_path / "got" / "set")
    assert list((tmp_path / "got").iterdir()) == []
    assert not list(tmp_path.rglob("escaped"))


def test_a_half_download_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    packed = pack_tar(tmp_path / "served" / "set.tar.gz", {"a.wav": bytes(range(256)) * 4000})
    with serving(tmp_path / "served", breaks_off=True) as address:
        refused((tmp_path / "served", address), tmp_path, packed, "broke off after|Cannot download")


def test_a_full_disk_is_said_so_and_leaves_nothing_behind(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    packed = pack_tar(served[0] / "set.tar.gz", FILES)
    monkeypatch.setattr(unpacking, "_extract", full)
    refused(served, tmp_path, packed, "Cannot write .*No space left on device.*disk not full")


def test_a_folder_with_something_in_it_is_left_alone(served: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match="is not empty"):
        publication([remote(*served, pack_tar(served[0] / "set.tar.gz", FILES))], tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


# ESC-50, of which the files are known one by one


@pytest.fixture
def soundata(served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In place of ``soundata.datasets.esc50``, with the attributes of soundata 1.0 and the index's published form."""
    files = {"audio/1-1-A-0.wav": b"sound", "meta/esc50.csv": b"table"}
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    document = {
        "version": "2.0.0",
        "clips": {"1-1-A-0": {"audio": ["audio/1-1-A-0.wav", md5["audio/1-1-A-0.wav"]]}},
        "metadata": {"esc50.csv": ["meta/esc50.csv", md5["meta/esc50.csv"]]},
    }
    index = served[0] / "index.json"
    index.write_text(json.dumps(document))
    offer = SimpleNamespace(
        url=f"{served[1]}/index.json", checksum=hashlib.md5(index.read_bytes()).hexdigest(), filename="index.json"
    )
    module = SimpleNamespace(INDEXES={"default": "2.0", "2.0": SimpleNamespace(remote=offer)}, files=files, offer=offer)
    monkeypatch.setitem(sys.modules, "soundata.datasets.esc50", module)  # type: ignore[arg-type]
    return module


def test_esc50_is_checked_file_by_file_against_soundatas_index(
    served: tuple[Path, str], soundata: SimpleNamespace, tmp_path: Path
) -> None:
    files = {f"ESC-50-master/{name}": content for name, content in soundata.files.items()}
    papers = {"ESC-50-master/LICENSE": b"CC BY-NC", "ESC-50-master/tests/x.py": b"left out"}
    pack_zip(served[0] / "master.zip", files | papers)
    target = esc50.download(tmp_path / "got" / "esc50", url=f"{served[1]}/master.zip")
    assert contents(target) == soundata.files | {"LICENSE": b"CC BY-NC"}
    (served[0] / "index.json").unlink()  # it is in the cache
    assert esc50.download(target, url=f"{served[1]}/gone.zip") == target
    (target / "meta" / "esc50.csv").write_bytes(b"edited")
    with pytest.raises(DatasetError, match=r"not empty, and meta/esc50\.csv of ESC-50 is missing or differs"):
        esc50.download(target, url=f"{served[1]}/gone.zip")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ESC-50-master/audio/1-1-A-0.wav": b"other"}, r"MD5 of audio/1-1-A-0\.wav differs"),
        ({"ESC-50-master/audio/1-1-A-0.wav": None}, r"lacks audio/1-1-A-0\.wav"),
    ],
)
def test_another_esc50_leaves_nothing_behind(
    served: tuple[Path, str], soundata: SimpleNamespace, tmp_path: Path, change: dict[str, bytes | None], message: str
) -> None:
    files = {f"ESC-50-master/{name}": content for name, content in soundata.files.items()} | change
    pack_zip(served[0] / "master.zip", {name: content for name, content in files.items() if content is not None})
    with pytest.raises(DatasetError, match=message):
        esc50.download(tmp_path / "got" / "esc50", url=f"{served[1]}/master.zip")
    assert list((tmp_path / "got").iterdir()) == []


def test_without_soundata_or_with_another_one_it_is_said_so(
    soundata: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert file_checksums("esc50")["audio/1-1-A-0.wav"] == "md5:" + hashlib.md5(b"sound").hexdigest()
    soundata.offer.checksum = "0" * 32
    with pytest.raises(DatasetError, match="not what was published: its MD5"):
        file_checksums("esc50")
    soundata.INDEXES = {}
    with pytest.raises(DatasetError, match="has no index of esc50"):
        file_checksums("esc50")

    monkeypatch.setitem(sys.modules, "soundata.datasets.esc50", None)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=r"pip install 'earwitness\[datasets\]'"):
        file_checksums("esc50")


def test_an_index_of_another_form_is_refused(served: tuple[Path, str], soundata: SimpleNamespace) -> None:
    (served[0] / "index.json").write_text("[1, 2]")
    soundata.offer.checksum = hashlib.md5(b"[1, 2]").hexdigest()
    with pytest.raises(DatasetError, match="not an index that is understood"):
        file_checksums("esc50")


def test_the_installed_soundata_knows_the_same_checksums() -> None:
    us8k = pytest.importorskip("soundata.datasets.urbansound8k")
    from soundata.datasets import esc50 as theirs

    from earwitness_bench.datasets.urbansound8k import PUBLISHED

    assert PUBLISHED.remotes[0].checksum == f"md5:{us8k.REMOTES['all'].checksum}"
    assert theirs.INDEXES[theirs.INDEXES["default"]].remote.url.startswith("https://zenodo.org/")


# The command


def test_the_command_names_every_download_with_its_licence() -> None:
    said = CliRunner().invoke(shell, ["download", "--help"]).output
    for name in DOWNLOADS:
        assert f"  {name} " in said
    assert said.count("CC BY") == len(DOWNLOADS)
    assert "GTZAN" in said


def test_the_command_fetches_a_data_set(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from earwitness_bench.datasets import urbansound8k

    offer = remote(*served, pack_tar(served[0] / "UrbanSound8K.tar.gz", FILES))
    monkeypatch.setattr(urbansound8k, "PUBLISHED", urbansound8k.Publication("urbansound8k", (offer,)))
    done = CliRunner().invoke(shell, ["download", "urbansound8k"])
    assert done.exit_code == 0, done.output
    assert contents(tmp_path / "cache" / "earwitness" / "urbansound8k") == FILES
    done = CliRunner().invoke(shell, ["download", "urbansound8k", "--to", str(tmp_path / "here")])
    assert done.output == f"urbansound8k is in {tmp_path / 'here'}\n"


@pytest.mark.parametrize(
    ("name", "message"),
    [("gtzan", "nobody has licensed"), ("urbansound", "Did you mean 'urbansound8k'"), ("xyz", "Choose one of: esc10")],
)
def test_the_command_says_why_there_is_no_such_download(name: str, message: str) -> None:
    done = CliRunner().invoke(shell, ["download", name])
    assert done.exit_code != 0
    assert message in done.output
