"""ESC-10: its three layouts, its download, and the published recordings themselves."""

from __future__ import annotations

import csv
import functools
import hashlib
import http.server
import os
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from earwitness.clips import Dataset
from earwitness.errors import AudioError, DatasetError
from earwitness_bench.datasets import esc10, fetch
from earwitness_bench.datasets.esc10 import ESC10, LABELS, download, read_manifest

CLIPS = [  # fold, class, source, take, target in ESC-50, samples
    (1, "dog", "100032", "A", 0, 22072),
    (1, "rain", "17367", "A", 10, 22072),
    (4, "dog", "182395", "A", 0, 30000),
    (5, "dog", "203128", "A", 0, 15000),
    (5, "dog", "203128", "B", 0, 22072),
]
FOLDERS = {"dog": "001 - Dog bark", "rain": "002 - Rain"}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small ESC-10 as published, its manifest in place of the packaged one; nothing in environment or cache."""
    root = tmp_path / "published"
    rows = []
    for i, (fold, label, source, take, target, n_samples) in enumerate(CLIPS):
        path = root / FOLDERS[label] / f"{fold}-{source}-{take}.ogg"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(i).uniform(-0.3, 0.3, n_samples), 44100)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        name = f"{fold}-{source}-{take}-{target}.ogg"
        rows.append([name, str(path.relative_to(root)), fold, LABELS.index(label), label, source, take, sha256])
    (root / "README.md").write_text("CC BY 3.0; who recorded what")
    manifest = tmp_path / "manifest.csv"
    with manifest.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "path", "fold", "target", "category", "source", "take", "sha256"])
        table.writerows(rows)
    monkeypatch.setattr(esc10, "MANIFEST", manifest)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EARWITNESS_DATA", raising=False)
    return root


def as_flat(published: Path, root: Path) -> Path:
    (root / "audio").mkdir(parents=True)
    for row in read_manifest():
        shutil.copy(published / row.path, root / "audio" / row.filename)
    (root / "esc10.csv").write_text("filename,fold\n")
    return root


def as_esc50(published: Path, root: Path) -> Path:
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    lines = ["filename,fold,target,category,esc10,src_file,take", "1-1-A-14.wav,1,14,chirping_birds,False,1,A"]
    for row, (fold, label, source, take, target, _) in zip(read_manifest(), CLIPS, strict=True):
        samples, rate = soundfile.read(published / row.path)
        soundfile.write(root / "audio" / f"{row.clip_id}.wav", samples, rate)
        lines.append(f"{row.clip_id}.wav,{fold},{target},{label},True,{source},{take}")
    (root / "meta" / "esc50.csv").write_text("\n".join(lines))
    return root


def test_the_three_layouts_give_the_same_clips(published, tmp_path):
    upstream = ESC10(folder=published, duration_s=0.5)
    flat = ESC10(folder=as_flat(published, tmp_path / "flat"), duration_s=0.5)
    esc50 = ESC10(folder=as_esc50(published, tmp_path / "esc50"), duration_s=0.5)
    assert isinstance(upstream, Dataset)
    assert upstream.entries == flat.entries
    assert [(e.clip_id, e.group, e.labels, e.n_samples) for e in esc50.entries] == [
        (e.clip_id, e.group, e.labels, e.n_samples) for e in upstream.entries
    ]
    assert upstream.notes == flat.notes == esc50.notes
    for i, entry in enumerate(upstream.entries):
        clip = upstream[i]
        assert (clip.clip_id, clip.group, clip.labels, clip.rate) == (entry.clip_id, entry.group, entry.labels, 44100)
        assert clip.waveform.shape == (22050,) == (entry.n_samples,)
        assert (esc50[i].waveform - clip.waveform).abs().max() < 1e-4  # 16-bit WAV


def test_folds_labels_and_groups_are_the_published_ones(published):
    data = ESC10(folder=published, folds=[5, 4], duration_s=0.5)
    assert [entry.clip_id for entry in data.entries] == ["4-182395-A-0", "5-203128-A-0", "5-203128-B-0"]
    assert [entry.group for entry in data.entries] == ["182395", "203128", "203128"]
    assert data.labels == LABELS
    assert data.labels[:2] == ("dog", "rain")


def test_crops_and_padding_are_said_aloud_and_inaudible_cuts_apart(published):
    data = ESC10(folder=published, duration_s=0.5)
    assert data.notes == (
        "2 of 5 clips were cropped or zero-padded to 0.5 s: 1 cropped by up to 0.18 s, 1 zero-padded by up to 0.16 s.",
        "3 of 5 clips were cut or padded to 0.5 s by at most 22 samples (0.5 ms), which cannot be heard.",
    )
    padded = data[3].waveform
    assert padded[14000:15000].abs().max() > 0.1
    assert padded[15000:].abs().max() == 0


def test_the_fingerprint_follows_file_and_length(published):
    whole, short = ESC10(folder=published, duration_s=0.5), ESC10(folder=published, duration_s=0.4)
    assert whole.entries[0].fingerprint != short.entries[0].fingerprint
    soundfile.write(published / FOLDERS["dog"] / "1-100032-A.ogg", np.full(22072, 0.1), 44100)
    changed = ESC10(folder=published, duration_s=0.5)
    assert changed.entries[0].fingerprint != whole.entries[0].fingerprint
    assert changed.entries[1] == whole.entries[1]
    assert "1 of 5 clips differ from the published files: 1-100032-A.ogg." in changed.notes


def test_it_is_looked_for_in_the_data_folder_and_then_in_the_cache(published, tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match=r"folder=.*EARWITNESS_DATA.*earwitness download esc10"):
        ESC10()
    cached = tmp_path / "cache" / "earwitness" / "esc10"
    shutil.copytree(published, cached)
    assert ESC10().folder == cached
    monkeypatch.setenv("EARWITNESS_DATA", str(tmp_path / "data"))
    assert ESC10().folder == cached
    shutil.copytree(published, tmp_path / "data" / "esc10")
    assert ESC10().folder == tmp_path / "data" / "esc10"


def test_an_incomplete_or_foreign_folder_is_refused_with_what_was_found(published, tmp_path):
    (published / FOLDERS["rain"] / "1-17367-A.ogg").unlink()
    with pytest.raises(DatasetError, match=r"ESC-10 as published, but 4 of 5 clips: .*1-17367-A\.ogg missing"):
        ESC10(folder=published)
    foreign = tmp_path / "foreign"
    (foreign / "cats").mkdir(parents=True)
    (foreign / "a.mp3").touch()
    with pytest.raises(DatasetError, match=r"'001 - Dog bark'.*meta/esc50\.csv.*found 1 \.mp3, 1 folders"):
        ESC10(folder=foreign)
    with pytest.raises(DatasetError, match="is not a folder"):
        ESC10(folder=tmp_path / "nowhere")


def test_an_esc50_table_without_the_flag_is_refused(published, tmp_path):
    root = as_esc50(published, tmp_path / "esc50")
    (root / "meta" / "esc50.csv").write_text("filename,fold\n")
    with pytest.raises(DatasetError, match=r"needs the columns .*esc10.*it has filename, fold"):
        ESC10(folder=root)


@pytest.mark.parametrize("parameters", [{"folds": []}, {"folds": [0]}, {"folds": 4}, {"duration_s": 0}])
def test_parameters_out_of_range_are_refused(published, parameters):
    with pytest.raises(DatasetError, match=next(iter(parameters))):
        ESC10(folder=published, **parameters)


def test_a_truncated_clip_is_refused_by_name(published):
    path = published / FOLDERS["dog"] / "1-100032-A.ogg"
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(AudioError, match=r"1-100032-A\.ogg (is truncated|holds no samples)"):
        ESC10(folder=published)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which this machine serves it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def pack(published: Path, path: Path, *, leave_out: str = "", extra: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(published.rglob("*")):
            if file.is_file() and file.name != leave_out:
                archive.write(file, Path("ESC-10-553c8f1") / file.relative_to(published))
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir()) if folder.parent.exists() else []


def test_a_download_is_checked_unpacked_with_its_licence_and_loads(published, served, tmp_path):
    folder, address = served
    pack(published, folder / "esc10.zip", extra={"ESC-10-553c8f1/ESC-10.png": b"a picture"})
    seen = []
    target = download(tmp_path / "got" / "esc10", url=f"{address}/esc10.zip", progress=lambda *p: seen.append(p))
    assert ESC10(folder=target, duration_s=0.5).entries == ESC10(folder=published, duration_s=0.5).entries
    assert (target / "README.md").read_text().startswith("CC BY")
    assert not (target / "ESC-10.png").exists()
    assert seen[-1] == (seen[-1][1], (folder / "esc10.zip").stat().st_size)
    assert left_behind(target) == ["esc10"]
    again = download(target, url=f"{address}/gone.zip")  # already there: nothing is fetched
    assert again == target


def test_the_data_set_downloads_itself_when_asked_to(published, served, tmp_path, monkeypatch):
    folder, address = served
    pack(published, folder / "esc10.zip")
    real = download
    monkeypatch.setattr(esc10, "download", lambda folder=None: real(folder, url=f"{address}/esc10.zip"))
    data = ESC10(duration_s=0.5, download=True)
    assert data.folder == tmp_path / "cache" / "earwitness" / "esc10"
    assert len(data) == 5


def test_an_archive_that_leads_out_of_its_folder_is_refused(published, served, tmp_path):
    folder, address = served
    for name in ("../../escaped.txt", "/escaped.txt", "ESC-10-553c8f1/..\\..\\escaped.txt"):
        pack(published, folder / "slip.zip", extra={name: b"x"})
        with pytest.raises(DatasetError, match="leads out of its folder"):
            download(tmp_path / "got" / "esc10", url=f"{address}/slip.zip")
    assert left_behind(tmp_path / "got" / "esc10") == []
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_clip_that_differs_or_lacks_leaves_nothing_behind(published, served, tmp_path):
    folder, address = served
    target = tmp_path / "got" / "esc10"
    pack(published, folder / "lacks.zip", leave_out="1-17367-A.ogg")
    with pytest.raises(DatasetError, match=r"lacks 002 - Rain/1-17367-A\.ogg"):
        download(target, url=f"{address}/lacks.zip")
    (published / FOLDERS["rain"] / "1-17367-A.ogg").write_bytes(b"OggS something else")
    pack(published, folder / "differs.zip")
    with pytest.raises(DatasetError, match=r"SHA-256 of 002 - Rain/1-17367-A\.ogg differs"):
        download(target, url=f"{address}/differs.zip")
    assert left_behind(target) == []


def test_a_damaged_archive_is_refused(published, served, tmp_path):
    folder, address = served
    content = pack(published, folder / "whole.zip").read_bytes()
    (folder / "truncated.zip").write_bytes(content[: len(content) // 2])
    (folder / "page.zip").write_text("<html>not found</html>")
    middle = len(content) // 3
    (folder / "flipped.zip").write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    for name in ("truncated.zip", "page.zip", "flipped.zip"):
        with pytest.raises(DatasetError, match="not a whole zip archive"):
            download(tmp_path / "got" / "esc10", url=f"{address}/{name}")
    assert left_behind(tmp_path / "got" / "esc10") == []


def test_a_server_that_does_not_answer_or_sends_too_much_is_said_so(published, served, tmp_path, monkeypatch):
    folder, address = served
    target = tmp_path / "got" / "esc10"
    with pytest.raises(DatasetError, match=r"Cannot download .*nothing\.zip: .*ot found.*network"):
        download(target, url=f"{address}/nothing.zip")
    with pytest.raises(DatasetError, match="Cannot download"):
        download(target, url="http://127.0.0.1:9/nothing.zip")
    with pytest.raises(DatasetError, match="https://"):
        download(target, url=(tmp_path / "a.zip").as_uri())
    pack(published, folder / "esc10.zip")
    monkeypatch.setattr(fetch, "MAX_FILE_BYTES", 1000)
    with pytest.raises(DatasetError, match="unpacks to"):
        download(target, url=f"{address}/esc10.zip")
    monkeypatch.setattr(fetch, "MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(DatasetError, match="more than 1000 bytes"):
        download(target, url=f"{address}/esc10.zip")
    assert left_behind(target) == []


def test_a_folder_in_use_is_not_overwritten(published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DatasetError, match=r"is not empty.*and 2 more of ESC-10 is missing"):
        download(tmp_path / "mine", url="http://127.0.0.1:9/never.zip")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_the_packaged_manifest_lists_four_hundred_clips():
    rows = read_manifest()
    assert len({row.clip_id for row in rows}) == len({row.sha256 for row in rows}) == len(rows) == 400
    assert all(len(row.sha256) == 64 for row in rows)
    for label in LABELS:
        assert [sum(row.category == label and row.fold == fold for row in rows) for fold in range(1, 6)] == [8] * 5
    folds = {row.source: row.fold for row in rows}
    assert all(folds[row.source] == row.fold for row in rows)


@pytest.fixture(scope="module")
def recordings() -> Path:
    root = os.environ.get("EARWITNESS_GOLDEN")
    if not root:
        pytest.skip("EARWITNESS_GOLDEN is not set: no copy of ESC-10 at hand.")
    return Path(root) / "data" / "esc10"


@pytest.mark.real_data
def test_the_published_recordings_load_and_their_lengths_are_said_aloud(recordings):
    data = ESC10(folder=recordings)
    assert len(data) == 400
    assert data.notes == (
        "20 of 400 clips were cropped or zero-padded to 5 s: "
        "10 cropped by up to 2.24 s, 10 zero-padded by up to 1.36 s.",
        "380 of 400 clips were cut or padded to 5 s by at most 44 samples (1 ms), which cannot be heard.",
    )  # and none differs from the published files
    assert data[399].waveform.shape == (220500,)


@pytest.mark.real_data
def test_fold_five_is_eighty_clips_of_fifty_seven_recordings(recordings):
    data = ESC10(folder=recordings, folds=(5,))
    assert len(data) == 80
    assert len({entry.group for entry in data.entries}) == 57
