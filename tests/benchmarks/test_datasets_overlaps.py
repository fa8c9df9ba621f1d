"""Overlapping recordings: classes, levels, sources, seeds, folds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from earwitness.clips import Clip, Dataset, Entry
from earwitness.errors import DatasetError
from earwitness_bench.datasets.overlaps import Overlaps

LABELS = ("a", "b", "c", "d")


class Notes:
    """Sixteen decaying tones of four classes; two neighbours of a class share a recording."""

    labels: tuple[str, ...] = LABELS
    rate = 8000
    notes: Sequence[str] = ()

    def __init__(self, *, reverse: bool = False, n_samples: int = 4000) -> None:
        self.numbers = list(range(16))[::-1] if reverse else list(range(16))
        self.entries: Sequence[Entry] = [
            Entry(f"n{i:02}", f"g{i % 4}{i // 8}", (LABELS[i % 4],), n_samples, f"n{i}") for i in self.numbers
        ]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry = self.entries[index]
        seconds = torch.arange(entry.n_samples) / self.rate
        number = self.numbers[index]
        wave = 0.05 * (1 + number) * torch.sin(2 * np.pi * (200 + 50 * number) * seconds)
        return Clip(wave, self.rate, entry.clip_id, entry.group, entry.labels)


def test_a_clip_is_the_sum_of_two_or_three_recordings_of_different_classes_and_groups():
    data = Overlaps(recordings=Notes(), per_recording=8)
    assert isinstance(data, Dataset)
    assert len(data) == 128
    own = {entry.clip_id: entry for entry in Notes().entries}
    sizes = []
    for index, entry in enumerate(data.entries):
        members = [own[name] for name in entry.clip_id.split("+")]
        sizes.append(len(members))
        assert len({member.group for member in members}) == len({member.labels for member in members}) == len(members)
        assert entry.labels == tuple(member.labels[0] for member in members)
        assert entry.group == members[0].group
        clip = data[index]
        assert tuple(source.label for source in clip.sources.values()) == clip.labels == entry.labels
        total = torch.stack([source.waveform for source in clip.sources.values()]).sum(0)
        assert (total - clip.waveform).abs().max() < 1e-6
        assert clip.waveform.abs().max() == pytest.approx(1)
    assert set(sizes) == {2, 3}
    assert 40 < sizes.count(3) < 88


def test_levels_differ_by_no_more_than_was_asked_for():
    for level_db in (0.0, 3.0):
        data = Overlaps(recordings=Notes(), level_db=level_db, sizes=[3], per_recording=1)
        spreads = []
        for index in range(len(data)):
            energies = [float(s.waveform.double().square().sum()) for s in data[index].sources.values()]
            spreads.append(10 * np.log10(max(energies) / min(energies)))
        assert max(spreads) <= 2 * level_db + 1e-3
        assert level_db == 0 or max(spreads) > level_db


def test_clips_depend_on_seed_and_first_recording_only():
    data, reordered = Overlaps(recordings=Notes()), Overlaps(recordings=Notes(reverse=True))
    more = Overlaps(recordings=Notes(), per_recording=3)
    assert {e.clip_id for e in data.entries} == {e.clip_id for e in reordered.entries}
    assert {e.clip_id for e in data.entries} < {e.clip_id for e in more.entries}
    twin = next(i for i, entry in enumerate(reordered.entries) if entry.clip_id == data.entries[5].clip_id)
    assert torch.equal(data[5].waveform, reordered[twin].waveform)
    assert data.entries[5] == reordered.entries[twin]
    assert data.entries != Overlaps(recordings=Notes(), seed=1).entries
    quieter = Overlaps(recordings=Notes(), level_db=1)
    assert {e.fingerprint for e in data.entries}.isdisjoint(e.fingerprint for e in quieter.entries)


def test_folds_are_handed_on_to_a_data_set_given_by_name():
    with pytest.raises(DatasetError, match=r"toy.*folds.*parameters are"):
        Overlaps(recordings="toy", folds=[1])
    with pytest.raises(DatasetError, match="by name"):
        Overlaps(recordings=Notes(), folds=[1])


@pytest.mark.real_data
def test_recordings_of_other_folds_are_left_out(shared_root, monkeypatch):
    monkeypatch.setenv("EARWITNESS_DATA", str(shared_root / "data"))
    data = Overlaps(recordings="esc10", folds=[5], per_recording=1)
    assert len(data) == 80
    assert all(name.startswith("5-") for entry in data.entries for name in entry.clip_id.split("+"))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"per_recording": 0}, "at least 1, got 0"),
        ({"sizes": []}, r"2 or more, got \[\]"),
        ({"sizes": [1, 2]}, r"got \[1, 2\]"),
        ({"level_db": -1.0}, "0 or more decibels, got -1.0"),
        ({"sizes": [5]}, r"n00 needs 4 others.*hold 3"),
    ],
)
def test_what_cannot_be_mixed_is_refused(parameters, message):
    with pytest.raises(DatasetError, match=message):
        Overlaps(recordings=Notes(), **parameters)
