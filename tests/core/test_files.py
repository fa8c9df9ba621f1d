"""Sound files: whatever decodes is read, whole and in constant memory; whatever does not is refused in one sentence."""

from __future__ import annotations

import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from earwitness.audio.files import Recording, is_constant, open_recording, read_audio, write_audio
from earwitness.clips import Batch, Clip, Source, resample
from earwitness.errors import AudioError, ConfigurationError

FORMATS = {  # extension, subtype: largest error of a sample
    "16-bit WAV": ("wav", "PCM_16", 2**-15),
    "24-bit WAV": ("wav", "PCM_24", 2**-23),
    "32-bit WAV": ("wav", "PCM_32", 1e-7),
    "float WAV": ("wav", "FLOAT", 0.0),
    "double WAV": ("wav", "DOUBLE", 0.0),
    "8-bit WAV": ("wav", "PCM_U8", 2**-7),
    "FLAC": ("flac", "PCM_24", 2**-23),
    "AIFF": ("aiff", "PCM_16", 2**-15),
    "AU": ("au", "PCM_16", 2**-15),
    "Ogg Vorbis": ("ogg", "VORBIS", 0.2),
    "Ogg Opus": ("ogg", "OPUS", 0.4),
    "MP3": ("mp3", "MPEG_LAYER_III", 0.2),
}


def tones(n_samples: int, channels: int = 1, rate: int = 44100) -> NDArray[np.float32]:
    """A tone a channel, (T, channels); their average is not zero."""
    time = np.arange(n_samples)[:, None] / rate
    return (0.5 * np.sin(2 * np.pi * (200 + 90 * np.arange(channels)) * time)).astype(np.float32)


def written(path: Path, samples: NDArray[np.float32], rate: int, subtype: str) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def made(folder: Path, kind: str, n_samples: int = 20011, channels: int = 1, rate: int = 44100) -> Path:
    extension, subtype, _ = FORMATS[kind]
    return written(folder / f"tone.{extension}", tones(n_samples, channels, rate), rate, subtype)


def whole(recording: Recording, rate: int) -> NDArray[np.float32]:
    return np.concatenate(list(recording.blocks(rate)))


def decode(path: Path) -> None:
    """Read a file to its end, the way a long recording is."""
    for _ in open_recording(path).blocks(16000):
        pass


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_is_read_back(tmp_path: Path, kind: str, channels: int) -> None:
    rate = 48000 if kind == "Ogg Opus" else 44100
    path = made(tmp_path, kind, channels=channels, rate=rate)
    waveform, found = read_audio(path)
    assert found == rate
    assert waveform.shape == (channels, 20011)
    assert waveform.dtype == torch.float32
    samples = torch.from_numpy(tones(20011, channels, rate).T.copy())
    assert float((waveform - samples).abs().max()) <= FORMATS[kind][2]
    recording = open_recording(path)
    assert recording == Recording(path, rate, channels, 20011)
    assert recording.duration_s == pytest.approx(20011 / rate)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_any_rate_and_any_number_of_channels_become_mono_at_the_rate_asked_for(
    tmp_path: Path, rate: int, channels: int
) -> None:
    path = written(tmp_path / "tones.wav", tones(2 * rate + 77, channels, rate), rate, "FLOAT")
    samples, _ = read_audio(path)
    mono = samples.mean(0)
    for wanted in (16000, 22050, rate):
        streamed = torch.from_numpy(whole(open_recording(path), wanted))
        at_once = resample(mono, rate, wanted)
        assert streamed.shape == at_once.shape
        assert float((streamed - at_once).abs().max()) < 1e-5
        assert abs(len(streamed) - (2 * rate + 77) * wanted / rate) <= 0.5


def test_a_tone_keeps_its_pitch_and_level_through_resampling(tmp_path: Path) -> None:
    path = written(tmp_path / "tone.wav", tones(44100), 44100, "FLOAT")
    samples = whole(open_recording(path), 16000)
    assert samples[2000:14000] == pytest.approx(tones(16000, rate=16000)[2000:14000, 0], abs=1e-3)


def test_blocks_meet_without_a_seam_wherever_they_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path, "float WAV", channels=2)
    at_once = whole(open_recording(path), 16000)
    monkeypatch.setattr("earwitness.audio.files._BLOCK_VALUES", 1234)
    blocks = list(open_recording(path).blocks(16000))
    assert len(blocks) > 30
    assert np.concatenate(blocks) == pytest.approx(at_once, abs=1e-6)


def test_samples_beyond_full_scale_are_left_as_they_are(tmp_path: Path) -> None:
    path = written(tmp_path / "hot.wav", 6 * tones(5000), 16000, "FLOAT")
    assert float(read_audio(path)[0].abs().max()) > 2.9
    assert np.abs(whole(open_recording(path), 16000)).max() > 2.9


@pytest.mark.parametrize("path", ["äöü 中文.wav", "no extension", "wrong.mp3", "-dash.wav"])
def test_the_name_of_a_file_does_not_matter(tmp_path: Path, path: str) -> None:
    soundfile.write(tmp_path / path, tones(4000), 16000, format="WAV", subtype="FLOAT")
    assert read_audio(tmp_path / path)[0].shape == (1, 4000)
    assert read_audio(str(tmp_path / path))[1] == 16000


# -- windows ----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    n_samples=st.integers(1, 600),
    n_window=st.integers(1, 200),
    share=st.floats(0.01, 1),
    block=st.integers(1, 300),
)
def test_windows_are_cut_at_each_hop_and_cover_every_sample(
    tmp_path_factory: pytest.TempPathFactory, n_samples: int, n_window: int, share: float, block: int
) -> None:
    path = tmp_path_factory.mktemp("windows") / "ramp.wav"
    ramp = np.arange(n_samples, dtype=np.float32) / 1000
    soundfile.write(path, ramp, 8000, subtype="FLOAT")
    n_hop = max(1, int(share * n_window))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("earwitness.audio.files._BLOCK_VALUES", block)
        windows = list(open_recording(path).windows(8000, n_window, n_hop))
    for start, window in windows:  # each is what the recording holds there
        assert window.tolist() == ramp[start : start + n_window].tolist()
    starts = [start for start, _ in windows]
    regular = list(range(0, max(0, n_samples - n_window) + 1, n_hop))
    assert starts[: len(regular)] == regular
    last = max(0, n_samples - n_window)  # the last one ends where the recording does, and comes once
    assert starts == (regular if regular[-1] == last else [*regular, last])
    assert {len(window) for _, window in windows} == {min(n_window, n_samples)}


def test_windows_of_a_resampled_recording_put_together_are_the_recording(tmp_path: Path) -> None:
    path = made(tmp_path, "FLAC", n_samples=100003, channels=2)
    samples = resample(read_audio(path)[0].mean(0), 44100, 16000)
    joined = torch.full_like(samples, torch.nan)
    for start, window in open_recording(path).windows(16000, 8000, 4000):
        overlap = joined[start : start + len(window)]
        assert torch.equal(overlap[~overlap.isnan()], window[~overlap.isnan()])
        joined[start : start + len(window)] = window
    assert float((joined - samples).abs().max()) < 1e-5  # NaN nowhere: all are covered


@pytest.mark.parametrize(("n_window", "n_hop"), [(100, 0), (100, -1), (100, 101)])
def test_windows_that_would_leave_gaps_or_never_end_are_refused(tmp_path: Path, n_window: int, n_hop: int) -> None:
    with pytest.raises(ConfigurationError, match=f"got {n_hop} and {n_window}"):
        next(open_recording(made(tmp_path, "FLAC")).windows(16000, n_window, n_hop))


def test_a_long_recording_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    def peak_bytes(minutes: int) -> int:
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 16000, 2, subtype="PCM_16") as file:
            for _ in range(minutes):
                file.write(tones(60 * 16000, 2, 16000))
        tracemalloc.start()
        n_windows = sum(1 for _ in open_recording(path).windows(22050, 220500, 110250))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n_windows == pytest.approx(12 * minutes - 1, abs=1)
        return peak

    short, long = peak_bytes(1), peak_bytes(20)
    assert long < 1.2 * short < 20e6


# -- silence ----------------------------------------------------------------------------------------------------------


def test_a_constant_recording_is_told_from_a_faint_one() -> None:
    faint = 1e-5 * torch.sin(torch.arange(100))
    rows = torch.stack([torch.zeros(100), torch.full((100,), 0.7), faint, 0.7 + faint])
    assert is_constant(rows).tolist() == [True, True, False, False]
    assert bool(is_constant(rows[0]))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_recording_is_constant_only_if_all_its_samples_are(tmp_path: Path, rate: int) -> None:
    for level in (0.0, 0.25):
        silent = np.full((21 * rate, 2), level, np.float32)
        click = silent.copy()
        click[-1, 1] += 0.01
        assert open_recording(written(tmp_path / "silent.wav", silent, rate, "FLOAT")).is_constant()
        assert not open_recording(written(tmp_path / "click.wav", click, rate, "FLOAT")).is_constant()


# -- refused ----------------------------------------------------------------------------------------------------------


def wave_header(
    *, rate: int = 16000, channels: int = 1, bits: int = 16, promised: int | None = None, data: bytes = bytes(4000)
) -> bytes:
    """A WAV file byte by byte, with whatever its header should claim."""
    frame = channels * bits // 8
    length = len(data) if promised is None else promised
    layout = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits)
    return (
        b"RIFF"
        + struct.pack("<I", 36 + length & 0xFFFFFFFF)
        + b"WAVEfmt "
        + layout
        + b"data"
        + struct.pack("<I", length)
        + data
    )


HOSTILE: dict[str, tuple[str, bytes, str]] = {
    "nothing in it": ("a.wav", b"", r"is empty \(0 bytes\)"),
    "text": ("a.wav", b"Dear diary, " * 900, "not a sound file that can be decoded"),
    "text named mp3": ("a.mp3", b"Dear diary, " * 900, "not a sound file that can be decoded"),
    "random bytes": ("a.wav", np.random.default_rng(0).bytes(50_000), "not a sound file that can be decoded"),
    "random bytes named ogg": ("a.ogg", np.random.default_rng(1).bytes(50_000), "not a sound file"),
    "a picture": ("a.flac", b"\x89PNG\r\n\x1a\n" + bytes(5000), "not a sound file"),
    "half a header": ("a.wav", wave_header()[:30], "not a sound file|no samples"),
    "a header alone": ("a.wav", wave_header(data=b""), "holds no samples"),
    "a header that promises gigabytes": (
        "a.wav",
        wave_header(promised=2**31),
        "truncated: its header promises 2147483648 bytes of samples, 4000 are there",
    ),
    "no channels": ("a.wav", wave_header(channels=0), "not a sound file"),
    "65535 channels": ("a.wav", wave_header(channels=65535), "not a sound file|no samples|damaged"),
    "no rate": ("a.wav", wave_header(rate=0), "not a sound file|damaged"),
    "a rate of two gigahertz": ("a.wav", wave_header(rate=2**31 - 1), "claims a sampling rate of 2147483647 Hz"),
    "a rate beyond 31 bits": ("a.wav", wave_header(rate=2**32 - 1), "not a sound file|damaged"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_not_a_sound_file_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    name, content, complaint = HOSTILE[case]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (open_recording, read_audio):
        with pytest.raises(AudioError, match=complaint) as caught:
            read(path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        assert "()" not in message  # a reason is given where one is announced


@pytest.mark.parametrize("promised", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wave_file_that_was_streamed_is_read_to_its_end(tmp_path: Path, promised: int) -> None:
    path = tmp_path / "streamed.wav"
    path.write_bytes(wave_header(promised=promised))
    assert read_audio(path)[0].shape == (1, 2000)


def test_a_wave_file_may_have_chunks_of_any_kind_around_its_samples(tmp_path: Path) -> None:
    plain = wave_header()
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    path = tmp_path / "chunks.wav"
    path.write_bytes(plain[:12] + odd + plain[12:] + odd)
    assert read_audio(path)[0].shape == (1, 2000)
    path.write_bytes(plain[:12] + odd + plain[12:-2])
    with pytest.raises(AudioError, match="promises 4000 bytes of samples, 3998 are there"):
        open_recording(path)


def test_a_flac_file_that_does_not_know_its_length_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path, "FLAC")
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the 36 bits of STREAMINFO that count the samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(AudioError, match=r"does not say how long it is.*from file to file"):
        open_recording(path)


def test_missing_files_directories_and_pipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"There is no file .*nowhere\.wav"):
        open_recording(tmp_path / "nowhere.wav")
    with pytest.raises(AudioError, match=r"is a directory. Give sound files"):
        open_recording(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="device or a pipe"):
        open_recording(tmp_path / "pipe.wav")


CUTS: dict[str, Callable[[int], int]] = {
    "half": lambda size: size // 2,
    "nine tenths": lambda size: size * 9 // 10,
    "all but five bytes": lambda size: size - 5,
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "8-bit WAV"])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, channels: int, cut: str) -> None:
    path = made(tmp_path, kind, n_samples=60007, channels=channels, rate=48000)
    content = path.read_bytes()
    decode(path)  # whole, it is fine
    path.write_bytes(content[: CUTS[cut](len(content))])
    for read in (decode, read_audio):
        with pytest.raises(AudioError, match="truncated") as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "()" not in str(caught.value)


def test_an_ogg_file_cut_between_two_pages_is_refused(tmp_path: Path) -> None:
    path = made(tmp_path, "Ogg Vorbis", n_samples=200_000)
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"OggS")])
    with pytest.raises(AudioError, match="last Ogg page is missing"):
        open_recording(path)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("n_samples", [300, 5000, 250_000])
def test_no_ogg_file_of_ours_is_taken_for_a_truncated_one(tmp_path: Path, n_samples: int, rate: int) -> None:
    path = made(tmp_path, "Ogg Vorbis", n_samples, 2, rate)
    assert open_recording(path).n_frames == n_samples
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))  # what taggers leave behind the last page
    assert open_recording(path).n_frames == n_samples


@pytest.mark.real_data
def test_every_clip_of_esc10_opens_and_decodes_to_its_length(shared_root: Path) -> None:
    paths = sorted((shared_root / "data" / "esc10" / "audio").iterdir())
    assert len(paths) == 400
    for path in paths:
        recording = open_recording(path)
        assert (recording.rate, recording.channels) == (44100, 1)
    for path in paths[::8]:
        assert len(whole(open_recording(path), 44100)) == open_recording(path).n_frames


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 19_999, 500_000])
def test_nan_and_infinite_samples_are_refused_wherever_they_are(tmp_path: Path, value: float, place: int) -> None:
    samples = tones(500_001, 2)
    samples[place, 1] = value
    path = written(tmp_path / "bad.wav", samples, 44100, "FLOAT")
    for read in (decode, read_audio):
        with pytest.raises(AudioError, match="NaN or infinite samples"):
            read(path)


def test_samples_whose_energy_overflows_are_refused_and_unscaled_integers_are_not(tmp_path: Path) -> None:
    samples = tones(44_100, 2)
    path = written(tmp_path / "loud.wav", samples / np.abs(samples).max() * 1e25, 44100, "FLOAT")
    with pytest.raises(AudioError, match=r"samples of 1e\+25, where full scale is 1"):
        read_audio(path)
    unscaled = written(tmp_path / "unscaled.wav", samples / np.abs(samples).max() * 2.0**23, 44100, "FLOAT")
    assert float(read_audio(unscaled)[0].abs().max()) > 1e6


def test_infinities_of_opposite_sign_do_not_cancel(tmp_path: Path) -> None:
    samples = tones(1000, 2)
    samples[5] = np.inf, -np.inf
    with pytest.raises(AudioError, match="NaN or infinite"):
        decode(written(tmp_path / "bad.wav", samples, 44100, "DOUBLE"))


# -- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_bit_by_bit(tmp_path: Path) -> None:
    waveform = 3 * torch.randn(5000, generator=torch.Generator().manual_seed(0))
    target = write_audio(tmp_path / "out.wav", waveform.requires_grad_(), 22050)
    assert target == tmp_path / "out.wav"
    back, rate = read_audio(target)
    assert rate == 22050
    assert torch.equal(back[0], waveform)
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_there_is_replaced(tmp_path: Path) -> None:
    for n_samples in (5000, 300):
        write_audio(tmp_path / "out.wav", torch.zeros(n_samples), 16000)
    assert read_audio(tmp_path / "out.wav")[0].shape == (1, 300)


def test_a_target_that_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "nowhere" / "a.wav", tmp_path / "folder.wav", tmp_path / "file" / "a.wav"):
        with pytest.raises(AudioError, match=r"Cannot write .*writable"):
            write_audio(target, torch.zeros(100), 16000)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.wav"]


def test_a_target_is_left_alone_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "out.wav", torch.ones(10), 16000)

    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full)
    with pytest.raises(AudioError, match="No space left on device"):
        write_audio(tmp_path / "out.wav", torch.zeros(100), 16000)
    assert read_audio(tmp_path / "out.wav")[0].shape == (1, 10)
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]


def test_only_mono_is_written(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"mono waveform of shape \(T,\) .* got \(2, 100\)"):
        write_audio(tmp_path / "a.wav", torch.zeros(2, 100), 16000)


# -- clips ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waveform", "rate", "complaint"),
    [
        (torch.zeros(0), 16000, "no samples"),
        (torch.tensor([0.0, torch.nan]), 16000, "NaN or infinite"),
        (torch.tensor([0.0, -torch.inf]), 16000, "NaN or infinite"),
        (torch.zeros(2, 9), 16000, "mono waveform"),
        (torch.zeros(9, dtype=torch.int16), 16000, "Divide integers"),
        (torch.zeros(9), 0, "sampling rate in Hz, got 0"),
    ],
)
def test_a_clip_that_cannot_be_heard_is_refused_by_name(waveform: torch.Tensor, rate: int, complaint: str) -> None:
    with pytest.raises(AudioError, match=f"'dog-1'.*{complaint}"):
        Clip(waveform, rate, "dog-1")


def test_a_resampled_clip_takes_its_sources_along() -> None:
    waveform = torch.from_numpy(tones(44100)[:, 0])
    clip = Clip(
        waveform, 44100, "dog-1", sources={"dog": Source(0.25 * waveform, "dog"), "rain": Source(0.75 * waveform)}
    )
    there = clip.resampled(16000)
    assert (there.rate, there.duration_s, there.group) == (16000, 1.0, "dog-1")
    assert torch.allclose(sum(source.waveform for source in there.sources.values()), there.waveform, atol=1e-6)
    assert clip.resampled(44100) is clip


def test_resampling_rounds_the_length_and_keeps_gradients_out() -> None:
    waveform = torch.from_numpy(tones(4411)[:, 0]).double().requires_grad_()
    there = resample(waveform, 44100, 16000)
    assert there.shape == (round(4411 * 16000 / 44100),)
    assert there.dtype == torch.float32
    assert not there.requires_grad


def test_a_batch_needs_clips_of_one_rate_and_length() -> None:
    clips = [Clip(torch.zeros(100), 16000, "a"), Clip(torch.zeros(101), 16000, "b")]
    with pytest.raises(AudioError, match="one rate and one length"):
        Batch.of(clips)
    with pytest.raises(AudioError, match="at least one"):
        Batch.of([])
    assert Batch.of(clips[:1]).waveforms.shape == (1, 100)


def test_what_a_mixture_holds_of_its_target_is_the_sum_of_its_sources() -> None:
    sources = {"x": Source(torch.ones(3), "dog"), "y": Source(2 * torch.ones(3), "dog"), "z": Source(torch.ones(3))}
    clip = Clip(4 * torch.ones(3), 16000, "a", sources=sources)
    batch = Batch.of([clip, clip])
    found = batch.target_sources(["dog", "rain"])
    assert found is not None
    assert found.tolist() == [[3.0] * 3, [0.0] * 3]
    assert Batch.of([Clip(torch.ones(3), 16000, "b")]).target_sources(["dog"]) is None
