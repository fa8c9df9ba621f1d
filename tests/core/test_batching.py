"""Rectangular batches: each clip once, of one length, never padded."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from earwitness.batching import ClipList, iterate, load_batch, plan_chunks
from earwitness.clips import Clip, Dataset, Entry
from earwitness.errors import AudioError, ConfigurationError
from networks import RATE, clips_of, noise

LENGTHS = st.lists(st.sampled_from([100, 200, 300]), max_size=40)


def entries_of(lengths: Iterable[int]) -> list[Entry]:
    return [Entry(f"clip-{i}", "", (), length, str(i)) for i, length in enumerate(lengths)]


@given(LENGTHS, st.integers(1, 9), st.sampled_from([None, 0, 1]))
def test_each_index_comes_once_in_chunks_of_one_length(lengths: list[int], chunk_size: int, seed: int | None) -> None:
    chunks = plan_chunks(entries_of(lengths), chunk_size, seed=seed)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(len(lengths)))
    assert all(len({lengths[index] for index in chunk}) == 1 for chunk in chunks)
    assert all(1 <= len(chunk) <= chunk_size for chunk in chunks)
    for length in set(lengths):  # no more chunks than it takes
        n_chunks = sum(lengths[chunk[0]] == length for chunk in chunks)
        assert n_chunks == -(-lengths.count(length) // chunk_size)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 3), st.randoms(use_true_random=False))
def test_seeded_chunks_hold_the_same_clips_whatever_the_order_of_the_entries(
    lengths: list[int], chunk_size: int, seed: int, shuffler: random.Random
) -> None:
    entries = entries_of(lengths)
    shuffled = list(entries)
    shuffler.shuffle(shuffled)

    def named(given: list[Entry]) -> list[list[str]]:
        return [[given[i].clip_id for i in chunk] for chunk in plan_chunks(given, chunk_size, seed=seed)]

    assert named(entries) == named(shuffled)


def test_without_a_seed_the_order_is_kept_and_with_one_it_is_not() -> None:
    entries = entries_of([100] * 20)
    assert plan_chunks(entries, 8) == [tuple(range(8)), tuple(range(8, 16)), tuple(range(16, 20))]
    seeded = [plan_chunks(entries, 8, seed=seed) for seed in (0, 1)]
    assert len({str(plan) for plan in (*seeded, plan_chunks(entries, 8))}) == 3


@pytest.mark.parametrize("chunk_size", [0, -1])
def test_chunks_of_nothing_are_refused(chunk_size: int) -> None:
    with pytest.raises(ConfigurationError, match="chunk_size must be positive"):
        plan_chunks(entries_of([100]), chunk_size)


def test_a_clip_list_is_a_data_set() -> None:
    clips = clips_of(noise(3), ["rain", "dog"])
    dataset = ClipList(clips)
    assert isinstance(dataset, Dataset)
    assert (len(dataset), dataset.rate, dataset.labels) == (3, RATE, ("dog", "rain"))
    assert dataset[1] is clips[1]
    assert [entry.clip_id for entry in dataset.entries] == ["clip-0", "clip-1", "clip-2"]
    assert ClipList(clips, ["rain", "dog", "sea"]).labels == ("rain", "dog", "sea")
    assert len(ClipList([])) == 0


def test_a_fingerprint_changes_with_one_sample() -> None:
    waveforms = noise(1)
    before = ClipList(clips_of(waveforms)).entries[0].fingerprint
    assert ClipList(clips_of(waveforms.clone())).entries[0].fingerprint == before
    waveforms[0, -1] += 1e-6
    assert ClipList(clips_of(waveforms)).entries[0].fingerprint != before


def test_clips_of_two_rates_are_no_data_set() -> None:
    with pytest.raises(AudioError, match=r"one rate, got \[8000, 16000\] Hz"):
        ClipList([*clips_of(noise(1)), *clips_of(noise(1), rate=16000)])


def test_integer_samples_are_refused() -> None:
    with pytest.raises(AudioError, match=r"float samples in \[-1, 1\], got torch\.int16"):
        Clip(torch.ones(5, dtype=torch.int16), RATE, "x")


def mixed() -> ClipList:
    return ClipList([*clips_of(noise(5)), *(Clip(row, RATE, f"short-{i}") for i, row in enumerate(noise(3)[:, :1000]))])


def test_batches_hold_the_samples_unpadded_and_at_the_rate_asked_for() -> None:
    dataset = mixed()
    batch = load_batch(dataset, [6, 5], RATE)
    assert batch.clip_ids == ("short-1", "short-0")
    assert torch.equal(batch.waveforms, noise(3)[[1, 0], :1000])
    assert load_batch(dataset, [5], 2 * RATE).waveforms.shape == (1, 2000)
    with pytest.raises(AudioError, match="one length"):
        load_batch(dataset, [0, 5], RATE)


def test_iterating_can_start_anywhere() -> None:
    everything = list(iterate(mixed(), RATE, 2))
    assert [number for number, _ in everything] == [0, 1, 2, 3, 4]
    assert sorted(clip_id for _, batch in everything for clip_id in batch.clip_ids) == sorted(
        entry.clip_id for entry in mixed().entries
    )
    for start in range(6):
        rest = list(iterate(mixed(), RATE, 2, start=start))
        assert [(number, batch.clip_ids) for number, batch in rest] == [
            (number, batch.clip_ids) for number, batch in everything[start:]
        ]
