"""Dictionaries: learnt from a stream, class by class, kept in a folder, taken up after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from earwitness.artifacts import digest_of
from earwitness.audio.stft import ListeningSTFT
from earwitness.batching import ClipList
from earwitness.clips import Clip, Entry
from earwitness.errors import AudioError, CheckpointError, ConfigurationError, SilentAudioError, StoreError
from earwitness.fitting import Workspace
from earwitness.random import stream_seed
from earwitness_plugins.sparse_nmf import spool as spool_module
from earwitness_plugins.sparse_nmf.dictionary import Dictionary, learn_dictionary
from earwitness_plugins.sparse_nmf.factorisation import factorise
from earwitness_plugins.sparse_nmf.frames import Sampling, averaged, read_frames
from earwitness_plugins.sparse_nmf.learning import ClassWise
from earwitness_plugins.sparse_nmf.listening import pattern_sound, shares, strongest_places
from earwitness_plugins.sparse_nmf.pictures import display_order
from earwitness_plugins.sparse_nmf.spool import DiskShelf, Spool, reblocked

RATE = 4000
STFT = ListeningSTFT(RATE, 128, 64)
PITCHES_HZ = {"low": 250.0, "middle": 750.0, "high": 1500.0}


def clip(labels: tuple[str, ...], number: int, seconds: float = 0.5, level: float = 1.0) -> Clip:
    """A tone for each label, bursting at its own rhythm, over the same hum and noise in all clips."""
    draws = torch.Generator().manual_seed(number)
    times = torch.arange(round(seconds * RATE)) / RATE
    sound = 0.3 * torch.sin(2 * math.pi * 1125 * times) + 0.01 * torch.randn(len(times), generator=draws)
    for label in labels:
        bursts = (torch.sin(2 * math.pi * (3 + number % 3) * times + number) > 0).float()
        sound = sound + bursts * torch.sin(2 * math.pi * PITCHES_HZ[label] * times)
    return Clip(level * sound, RATE, f"{'-'.join(labels) or 'nothing'} {number}", labels=labels)


def tones(per_class: int = 4, unlabelled: int = 4) -> ClipList:
    clips = [clip((label,), number) for number in range(per_class) for label in PITCHES_HZ]
    return ClipList([*clips, *(clip((), 100 + number) for number in range(unlabelled))], list(PITCHES_HZ))


def log_magnitudes(dataset: Any) -> Tensor:
    return torch.cat([torch.log1p(STFT.forward(one.waveform[None]).abs())[0] for one in dataset], dim=1)


def peaks_hz(dictionary: Dictionary) -> list[float]:
    return [int(row) * RATE / STFT.n_fft for row in dictionary.patterns.argmax(0)]


# --- frames


def test_frames_are_averaged_within_a_clip_and_its_end_too() -> None:
    values = torch.rand(2, 3, 11)
    expected = torch.stack([values[..., start : start + 4].mean(-1) for start in (0, 4, 8)], dim=-1)
    torch.testing.assert_close(averaged(values, 4), expected)
    assert averaged(values, 1) is values
    torch.testing.assert_close(averaged(values, 20), values.mean(-1, keepdim=True))


def test_averages_never_mix_clips() -> None:
    data = tones(1, 0)
    frames = list(read_frames(data, [0, 1, 2], STFT, Sampling(average=5)))
    whole = [averaged(log_magnitudes([data[index]])[None], 5)[0] for index in range(3)]
    for found, expected in zip(frames, whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_each_clip_gives_its_share_of_the_frames_and_the_same_ones_again() -> None:
    data = tones(2, 0)
    frames = list(read_frames(data, range(6), STFT, Sampling(max_frames=20, seed=3)))
    assert [piece.shape[1] for piece in frames] == [3, 3, 4, 3, 3, 4]
    whole = log_magnitudes([data[0]])
    assert all((whole - column[:, None]).abs().amax(0).min() < 1e-5 for column in frames[0].T)
    again = list(read_frames(data, range(6), STFT, Sampling(max_frames=20, seed=3)))
    other = list(read_frames(data, range(6), STFT, Sampling(max_frames=20, seed=4)))
    assert all(torch.equal(one, two) for one, two in zip(frames, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(frames, other, strict=True))


# --- the stream


def test_blocks_come_back_from_the_disk_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "BLOCK_FRAMES", 8)
    stream = [torch.rand(3, n) for n in (5, 0, 20, 1)]
    blocks = list(reblocked(stream))
    assert [block.shape[1] for block in blocks] == [8, 8, 8, 2]
    assert torch.equal(torch.cat(blocks, dim=1), torch.cat(stream, dim=1))
    shelf = DiskShelf(tmp_path / "shelf", 2, 3, 26, device="cpu")
    start = [torch.rand(2, 3, block.shape[1]) for block in blocks]
    shelf.fill(start)
    changed = torch.rand(2, 3, 2)
    shelf.write(3, torch.tensor([2, 1]), changed)
    assert torch.equal(shelf.read(1, torch.tensor([0, 0])), start[1])
    assert torch.equal(shelf.read(3, torch.tensor([0, 1])), torch.stack([start[3][0], changed[1]]))
    assert torch.equal(shelf.read(3, torch.tensor([2, 0])), torch.stack([changed[0], start[3][1]]))


def test_a_spool_that_was_cut_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 3, 5)
    spool.write(0, torch.rand(3, 5))
    spool.path.write_bytes(spool.path.read_bytes()[:-4])
    with pytest.raises(StoreError, match="shorter than what was written"):
        spool.read(0)


@pytest.mark.parametrize("block", [8192, 50])
@pytest.mark.parametrize("restarts", [1, 3])
def test_learning_from_a_stream_is_factorising_all_frames_at_once(
    block: int, restarts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "BLOCK_FRAMES", block)
    data, settings = tones(), {"restarts": restarts, "max_iterations": 12, "tolerance": 0.0}
    learnt = learn_dictionary(data, STFT, n_patterns=5, seed=7, **settings)  # type: ignore[arg-type]
    draws = torch.Generator().manual_seed(stream_seed(7, "sparse-nmf", "patterns"))
    whole = factorise(log_magnitudes(data), 5, generator=draws, **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(learnt.patterns, whole.patterns, rtol=0, atol=0 if block == 8192 else 1e-4)


class Endless:
    """Noise that is made when it is asked for."""

    def __init__(self, count: int, n_samples: int) -> None:
        self.labels, self.rate, self.notes = ("noise",), RATE, ()
        self.entries = [Entry(f"{n}", f"{n}", (), n_samples, f"{n}") for n in range(count)]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        draws = torch.Generator().manual_seed(index)
        return Clip(torch.randn(self.entries[index].n_samples, generator=draws), RATE, f"{index}")


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def test_memory_does_not_grow_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        pytest.skip("Only Linux says how much memory was used at most.")
    monkeypatch.setattr(spool_module, "BLOCK_FRAMES", 2048)
    settings = {"n_patterns": 8, "max_iterations": 2, "tolerance": 0.0}
    learn_dictionary(Endless(16, 40_000), STFT, **settings)  # type: ignore[arg-type]
    reset.write_text("5")
    before = peak_mb()
    learn_dictionary(Endless(400, 40_000), STFT, **settings)  # type: ignore[arg-type]
    n_frames = 400 * STFT.n_frames(40_000)
    assert 4 * n_frames * (STFT.n_bins + 3 * 8) / 2**20 > 80  # what frames and activations would need
    assert peak_mb() - before < 25


# --- class by class


def test_class_wise_patterns_leave_what_all_clips_share_to_the_noise() -> None:
    """At a small sparsity: at a large one, a pattern that holds tone and hum is cheaper than two at the same time."""
    learnt, alone = (
        learn_dictionary(tones(), STFT, sparsity=0.05, class_wise=ClassWise(noise_patterns, patterns_per_class=1))
        for noise_patterns in (3, 0)
    )
    assert learnt.labels == ("low", "middle", "high")
    for label, peak in zip(learnt.labels, peaks_hz(learnt), strict=True):
        assert abs(peak - PITCHES_HZ[str(label)]) <= RATE / STFT.n_fft
    hum = round(1125 * STFT.n_fft / RATE)
    assert float(learnt.patterns[hum].max()) < 0.15
    assert float(alone.patterns[hum].min()) > 0.35


def test_the_noise_can_be_kept() -> None:
    scheme = ClassWise(noise_patterns=2, patterns_per_class=1, keep_noise=True)
    learnt = learn_dictionary(tones(), STFT, class_wise=scheme)
    assert learnt.labels == ("low", "middle", "high", None, None)
    dropped = learn_dictionary(tones(), STFT, class_wise=ClassWise(noise_patterns=2, patterns_per_class=1))
    assert torch.equal(dropped.patterns, learnt.patterns[:, :3])


def test_a_class_is_learnt_from_at_most_so_many_clips() -> None:
    read: list[str] = []

    class Watched(ClipList):
        def __getitem__(self, index: int) -> Clip:
            read.append(self.entries[index].clip_id)
            return super().__getitem__(index)

    data = Watched(list(tones(6, 6)), list(PITCHES_HZ))
    learn_dictionary(data, STFT, class_wise=ClassWise(noise_patterns=2, patterns_per_class=1, clips_per_class=3))
    assert len(read) == len(set(read)) == 4 * 3


# --- taking up


class KilledError(Exception):
    """As if somebody had pulled the plug."""


@pytest.mark.parametrize("when", [3, 9, 14, 22, 31])
def test_a_run_that_was_killed_anywhere_ends_with_the_same_bits(
    when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "BLOCK_FRAMES", 100)
    data = tones()
    settings = {"max_iterations": 6, "tolerance": 0.0, "class_wise": ClassWise(2, 2)}
    whole = learn_dictionary(data, STFT, **settings)  # type: ignore[arg-type]
    reads, read = 0, Spool.read

    def read_until_killed(self: Spool, number: int, part: int = 0) -> Tensor:
        nonlocal reads
        reads += 1
        if reads == when * 4:
            raise KilledError
        return read(self, number, part)

    workspace = Workspace(tmp_path, "key")
    monkeypatch.setattr(Spool, "read", read_until_killed)
    with pytest.raises(KilledError):
        learn_dictionary(data, STFT, workspace=workspace, **settings)  # type: ignore[arg-type]
    again = learn_dictionary(data, STFT, workspace=workspace, **settings)  # type: ignore[arg-type]
    assert torch.equal(again.patterns, whole.patterns)


def test_what_is_learnt_already_is_not_learnt_again(tmp_path: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        said.clear()
        learn_dictionary(
            tones(),
            STFT,
            n_patterns=3,
            workspace=Workspace(tmp_path, "key"),
            progress=lambda done, total, text: said.append(f"{done <= total} {text}"),
        )
    assert said == []
    with pytest.raises(CheckpointError, match="belongs to another fit"):
        learn_dictionary(tones(), STFT, n_patterns=3, workspace=Workspace(tmp_path, "other"))


def test_progress_grows_and_ends_within_its_total() -> None:
    steps: list[tuple[int, int]] = []
    learn_dictionary(
        tones(),
        STFT,
        class_wise=ClassWise(2, 1),
        max_iterations=5,
        progress=lambda done, total, text: steps.append((done, total)),
    )
    assert steps == sorted(steps)
    assert len({total for _, total in steps}) == 1
    assert steps[-1][0] <= steps[-1][1]


# --- bad input


def short() -> ClipList:
    return ClipList([Clip(torch.rand(100), RATE, "a click")])


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: learn_dictionary(ClipList([], ()), STFT), ConfigurationError, "no clips"),
    (lambda: learn_dictionary(short(), STFT, n_patterns=1), AudioError, "a click.*less than one frame"),
    (
        lambda: learn_dictionary(ClipList([Clip(torch.zeros(4000), RATE, "silence")]), STFT, n_patterns=2),
        SilentAudioError,
        "nothing to learn",
    ),
    (lambda: learn_dictionary(tones(1, 0), STFT, n_patterns=100), ConfigurationError, "100 patterns cannot be learnt"),
    (lambda: learn_dictionary(tones(), STFT, n_patterns=0), ConfigurationError, "n_patterns=0"),
    (lambda: learn_dictionary(tones(), STFT, average=0), ConfigurationError, "must be positive"),
    (lambda: learn_dictionary(tones(), STFT, max_frames=0), ConfigurationError, "must be positive"),
    (lambda: learn_dictionary(tones(), STFT, method="als"), ConfigurationError, "'hals'"),  # type: ignore[arg-type]
    (lambda: learn_dictionary(tones(4, 0), STFT, class_wise=ClassWise()), ConfigurationError, "noise_patterns=0"),
    (
        lambda: learn_dictionary(ClipList([clip((), 0)], ["dog"]), STFT, class_wise=ClassWise(1, 1)),
        ConfigurationError,
        "No clip has the label 'dog'",
    ),
    (lambda: ClassWise(patterns_per_class=0), ConfigurationError, "patterns_per_class >= 1"),
]


@pytest.mark.parametrize(("call", "error", "said"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_cannot_be_learnt_from_is_refused_by_name(
    call: Callable[[], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call()


# --- the folder


@pytest.fixture
def learnt() -> Dictionary:
    return learn_dictionary(tones(), STFT, n_patterns=6, max_iterations=20)


def test_a_dictionary_is_the_same_after_being_stored(tmp_path: Path, learnt: Dictionary) -> None:
    named = Dictionary(learnt.patterns, STFT, 0.8, ("low", None, "high", None, None, "low"))
    named.save(tmp_path)
    again = Dictionary.load(tmp_path)
    assert torch.equal(again.patterns, named.patterns)
    assert (again.stft, again.sparsity, again.labels, again.scale) == (STFT, 0.8, named.labels, "log1p")
    assert (again.rate, again.n_fft, again.hop_length) == (RATE, 128, 64)


def cut(folder: Path) -> None:
    path = folder / "dictionary.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def exchanged(folder: Path) -> None:
    patterns = torch.rand(65, 6)
    save_file({"patterns": patterns / patterns.norm(dim=0)}, folder / "dictionary.safetensors")


def relabelled(folder: Path) -> None:
    document = json.loads((folder / "dictionary.json").read_text())
    (folder / "dictionary.json").write_text(json.dumps({**document, "sparsity": 0.1}))


def scribbled(folder: Path) -> None:
    (folder / "dictionary.json").write_text("{")


def emptied(folder: Path) -> None:
    (folder / "dictionary.json").unlink()


def from_the_future(folder: Path) -> None:
    document = json.loads((folder / "dictionary.json").read_text())
    (folder / "dictionary.json").write_text(json.dumps({**document, "schema": 99}))


@pytest.mark.parametrize("damage", [cut, exchanged, relabelled, scribbled, emptied, from_the_future])
def test_a_damaged_dictionary_is_refused(damage: Callable[[Path], None], tmp_path: Path, learnt: Dictionary) -> None:
    learnt.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError):
        Dictionary.load(tmp_path)


@pytest.mark.parametrize("other", [(8000, 128, 64), (RATE, 256, 64), (RATE, 128, 32)])
def test_a_dictionary_for_another_stft_is_refused(other: tuple[int, int, int], learnt: Dictionary) -> None:
    learnt.check_matches(ListeningSTFT(RATE, 128, 64))
    with pytest.raises(ConfigurationError, match=r"128 samples every 64 at 4000 Hz.*learn-patterns with --stft"):
        learnt.check_matches(ListeningSTFT(*other))


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (torch.eye(65)[:, :6].double(), "float32"),
        (torch.eye(64)[:, :6], r"\(65, 6\)"),
        (2 * torch.eye(65)[:, :6], "unit L2 norm"),
        (-torch.eye(65)[:, :6], "not negative"),
        (torch.full((65, 6), torch.nan), "unit L2 norm"),
    ],
)
def test_patterns_that_are_none_are_refused(patterns: Tensor, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Dictionary(patterns, STFT, 0.8, (None,) * 6)


def test_a_checksum_changes_with_all_that_a_dictionary_is(learnt: Dictionary) -> None:
    others = [
        Dictionary(learnt.patterns.roll(1, 1), STFT, 0.8),
        Dictionary(learnt.patterns, ListeningSTFT(RATE, 128, 32), 0.8),
        Dictionary(learnt.patterns, STFT, 0.7),
        Dictionary(learnt.patterns, STFT, 0.8, ("low",) * 6),
    ]
    assert len({digest_of(one.checksum) for one in (learnt, *others)}) == 5


# --- looking and listening


def test_the_shares_of_all_patterns_sum_to_the_recording(learnt: Dictionary) -> None:
    waveform = clip(("low", "high"), 3).waveform
    heard = shares(learnt, waveform, range(6))
    assert heard.shape == (6, len(waveform))
    assert float((heard.sum(0) - waveform).norm() / waveform.norm()) < 0.05


def test_a_pattern_is_heard_where_its_sound_is() -> None:
    data = ClipList([clip((label,), number, 3.0) for number, label in enumerate(PITCHES_HZ)])
    scheme = ClassWise(noise_patterns=0, patterns_per_class=1)
    learnt = learn_dictionary(data, STFT, class_wise=scheme)
    places = strongest_places(learnt, data)
    for number, label in enumerate(learnt.labels):
        sound = pattern_sound(learnt, data, places, number)
        assert sound.clip_id.startswith(str(label))
        assert len(sound.waveform) == 2 * RATE
        assert float(sound.waveform.abs().max()) == pytest.approx(0.5)
        power = torch.fft.rfft(sound.waveform).abs()
        assert abs(int(power.argmax()) / 2.0 - PITCHES_HZ[str(label)]) < 5


def test_a_pattern_that_is_nowhere_active_has_no_sound() -> None:
    patterns = torch.zeros(65, 2)
    patterns[8, 0] = patterns[60, 1] = 1.0  # 250 Hz, and 1875 Hz, where there is only weak noise
    dictionary = Dictionary(patterns, STFT, 3.0)
    data = ClipList([clip(("low",), 0)])
    places = strongest_places(dictionary, data)
    assert int(places.clips[1]) == -1
    assert pattern_sound(dictionary, data, places, 0).clip_id == "low 0"
    with pytest.raises(SilentAudioError, match="Pattern 1 is active in none"):
        pattern_sound(dictionary, data, places, 1)


def test_patterns_are_shown_by_class_and_low_ones_first() -> None:
    patterns = torch.eye(65)[:, [40, 5, 20, 30]]
    dictionary = Dictionary(patterns, STFT, 0.8, ("b", "a", "b", "a"))
    assert display_order(dictionary) == [2, 0, 1, 3]
