"""Medley-solos-DB, on a tree of its layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from earwitness.clips import Dataset
from earwitness.errors import DatasetError
from earwitness_bench.datasets.medley_solos_db import LABELS, TABLE, medley_solos_db
from sounds import write_sound

ROWS = [  # subset, instrument_id, song_id, uuid4
    ("test", 0, "000", "0e4371ac-1c6a-51ab-fdb7-f8abd5fbf1a3"),
    ("test", 0, "000", "33383119-fd64-59c1-f596-d1a23e8a0eff"),
    ("training", 1, "139", "163fd2b1-8e98-515a-f501-4742cc6d066f"),
    ("training", 7, "140", "b2b7a288-e169-5642-fced-b509c06b11fc"),
    ("validation", 4, "200", "a8bfed6b-3005-5059-f46d-4f4c5e672850"),
]
NAMES = [f"Medley-solos-DB_{subset}-{number}_{uuid}" for subset, number, _, uuid in ROWS]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EARWITNESS_DATA", str(tmp_path / "data"))


def plant(root: Path, *, table: str = TABLE, audio: str = "", end: str = ".wav") -> Path:
    lines = ["subset,instrument,instrument_id,song_id,uuid4"]
    for (subset, number, song, uuid), name in zip(ROWS, NAMES, strict=True):
        write_sound(root / audio / f"{name}{end}", 65536, 44100)
        lines.append(f"{subset},{LABELS[number]},{number},{song},{uuid}")
    (root / table).parent.mkdir(parents=True, exist_ok=True)
    (root / table).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"audio": "audio", "table": f"annotation/{TABLE}"},
        {"audio": "Medley-solos-DB"},
        {"end": ".wav.wav"},
    ],
)
def test_clips_of_every_layout_have_song_and_instrument(tmp_path: Path, layout: dict[str, str]) -> None:
    plant(tmp_path / "data" / "medley-solos-db", **layout)
    data = medley_solos_db()
    assert isinstance(data, Dataset)
    assert data.labels == LABELS
    assert [(e.clip_id, e.group, e.labels, e.n_samples) for e in data.entries] == [
        (name, song, (LABELS[number],), 65536) for name, (_, number, song, _) in zip(NAMES, ROWS, strict=True)
    ]
    assert data[2].waveform.shape == (65536,)
    assert data.notes == ("This copy lists 5 clips; 21571 were published.",)


@pytest.mark.parametrize("split", ["training", "validation", "test"])
def test_splits_are_the_published_subsets(tmp_path: Path, split: str) -> None:
    root = plant(tmp_path / "copy")
    own = [name for name, row in zip(NAMES, ROWS, strict=True) if row[0] == split]
    assert [e.clip_id for e in medley_solos_db(folder=root, split=split).entries] == own  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("test,clarinet", "tset,clarinet", r"line 2: there is no subset 'tset'\. Did you mean 'test'"),
        (",7,140", ",8,140", "instrument_id is a number from 0 to 7, not '8'"),
        ("b2b7a288-", "../b2b7a288-", "uuid4 is the name of a file"),
        ("33383119-fd64-59c1-f596-d1a23e8a0eff", "0e4371ac-1c6a-51ab-fdb7-f8abd5fbf1a3", "more than once"),
        ("33383119", "43383119", r"has 4 of 5 files .*_43383119-.* missing"),
        ("song_id", "song", "needs the columns subset, instrument_id, song_id, uuid4"),
    ],
)
def test_a_table_that_is_not_the_published_one_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    root = plant(tmp_path / "copy")
    content = (root / TABLE).read_text()
    assert old in content
    (root / TABLE).write_text(content.replace(old, new))
    with pytest.raises(DatasetError, match=message):
        medley_solos_db(folder=root)


def test_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="earwitness download medley-solos-db"):
        medley_solos_db()
    with pytest.raises(DatasetError, match="split is one of training, validation, test; got 'train'"):
        medley_solos_db(split="train")  # type: ignore[arg-type]
