"""Explaining a recording: listen, decide, explain, make it heard, and say whether to believe it.

Recordings longer than a window are explained in overlapping windows and stitched, in constant memory, so two hours
take no more than two windows do.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from earwitness.artifacts import write_json
from earwitness.audio.files import CLIPPED_LEVEL, Recording, is_constant, open_recording
from earwitness.audio.rules import Energy, Normalise, Rule
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip
from earwitness.errors import AudioError
from earwitness.examples import ExampleFiles, RecordedExample
from earwitness.explanation import Explanation, Route, Scale
from earwitness.output_folder import clear, seen_from, writable
from earwitness.parts import ExplainedPart, PartFiles
from earwitness.pictures import draw_explanation
from earwitness.protocols import Explainer, Progress
from earwitness.random import Random
from earwitness.render import Rendering, Scene, render
from earwitness.stitching import StitchedPicture, StitchedSound
from earwitness.verdict import Evidence, Verdict, gather_evidence, judge

SCHEMA = 1
WINDOW_S = 10.0
"""Length of a window in seconds, for classifiers that take any length."""

CHUNK = 8
"""Windows that are explained at once."""

VERDICT_WINDOWS = 8
"""At most this many windows, those where the class is most probable, are put to the test against chance."""

NOTHING_TO_HEAR = "nothing to hear"
_OF_RELEVANCE = Energy(0.3)


@dataclass(frozen=True)
class Settings:
    """How a recording is explained.

    Attributes
    ----------
    label : str, optional
        The class to explain. Default: the classifier's decision.
    rule : Rule, optional
        Default: a method's own mask or sound is kept as it is, and a mask of relevance keeps 30 % of the energy: enough
        to be heard, and little enough for the rest to be a test.
    scale, route
        See ``render``.
    seed : int
    window_s : float
        Length of a window in seconds; classifiers of a fixed duration take that instead.
    draws : int
        Random masks in the verdict.
    match_loudness : bool
        Write ``heard_loud.wav`` too, at the recording's level, and the like of each part.
    """

    label: str | None = None
    rule: Rule | None = None
    scale: Scale = "magnitude"
    route: Route = "waveform"
    seed: int = 0
    window_s: float = WINDOW_S
    draws: int = 19
    match_loudness: bool = False


@dataclass(frozen=True)
class ExplainedRecording:
    """Where the answer lies, and what it is.

    Attributes
    ----------
    folder : Path
        Holds ``heard.wav``, ``rest.wav``, ``explanation.png`` and ``explanation.json``, and for a method with parts
        ``parts.png`` and a folder ``parts``, for one with examples a folder ``examples``; for a silent recording only
        the document.
    label : str or None
        The explained class.
    probabilities : dict of str to float
        The five most probable classes, averaged over windows.
    verdict : Verdict or None
        None for a silent recording.
    notes : tuple of str
        What was found out about the recording on the way.
    parts : tuple of ExplainedPart
    examples : tuple of RecordedExample
        Empty for methods that have none.
    """

    folder: Path
    label: str | None
    probabilities: dict[str, float]
    verdict: Verdict | None
    notes: tuple[str, ...]
    parts: tuple[ExplainedPart, ...] = ()
    examples: tuple[RecordedExample, ...] = ()

    @property
    def heard(self) -> Path:
        """The sound that the explanation points at."""
        return self.folder / "heard.wav"

    @property
    def rest(self) -> Path:
        """The sound that is left."""
        return self.folder / "rest.wav"


@dataclass(frozen=True, eq=False)
class _Window:
    """A stretch of the recording: its first sample, its length, and its samples, followed by silence if need be."""

    start: int
    n_samples: int
    waveform: Tensor
    constant: bool


@dataclass
class _Heard:
    """What the first pass, the listening, found out."""

    starts: list[int] = field(default_factory=list)
    constant: list[bool] = field(default_factory=list)
    probabilities: list[Tensor] = field(default_factory=list)
    n_samples: int = 0
    n_clipped: int = 0


def explain_recording(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    classifier: AudioClassifier,
    explainer: Explainer,
    explainer_name: str,
    settings: Settings | None = None,
    progress: Progress = lambda done, total, text: None,
) -> ExplainedRecording:
    """Explain why a classifier decided what it decided about a recording.

    Parameters
    ----------
    path : path
        A sound file of any rate, number of channels and length.
    out : path
        Folder for the results, made if need be.
    classifier : AudioClassifier
    explainer : Explainer
    explainer_name : str
        For titles and reports.
    settings : Settings, optional
    progress : callable (done, total, text)

    Returns
    -------
    ExplainedRecording

    Raises
    ------
    AudioError
        The file cannot be used (see ``open_recording``), or is shorter than a frame.
    ClassifierError
        The classifier does not know the label.
    StoreError
        The folder cannot be written to.
    """
    settings = settings or Settings()
    recording = open_recording(path)
    target = None if settings.label is None else classifier.target_of(settings.label)
    folder = writable(Path(out))
    job = _Job(recording, classifier, explainer, explainer_name, settings, folder, progress)
    return job.run(target)


class _Job:
    """One recording on its way through: two passes over its windows."""

    def __init__(
        self,
        recording: Recording,
        classifier: AudioClassifier,
        explainer: Explainer,
        explainer_name: str,
        settings: Settings,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.recording = recording
        self.classifier = classifier
        self.explainer = explainer
        self.explainer_name = explainer_name
        self.settings = settings
        self.folder = folder
        self.progress = progress
        self.listening = classifier.listening
        self.diagnostics: dict[str, float] = {}
        self.rule: str | None = None  # as applied; "own" for a mask or sound of the method's own
        window_s = classifier.duration_s or settings.window_s
        self.n_window = round(window_s * classifier.rate)
        self.n_hop = max(1, self.n_window // 2)
        expected = recording.duration_s * classifier.rate
        self.n_expected = 1 + max(0, round((expected - self.n_window) / self.n_hop))
        shortest = max(self.listening.n_fft, classifier.min_samples)
        if expected < shortest:
            raise AudioError(
                f"{recording.path} lasts {1000 * recording.duration_s:.0f} ms; {classifier.name} needs at least "
                f"{1000 * shortest / classifier.rate:.0f} ms. Give a longer recording."
            )

    def run(self, target: int | None) -> ExplainedRecording:
        heard = self._listen()
        notes = self._notes(heard)
        audible = [p for p, constant in zip(heard.probabilities, heard.constant, strict=True) if not constant]
        if not audible or self.recording.is_constant():
            clear(self.folder, keep=self.recording.path)
            return self._finish(None, {}, None, [*notes, f"{NOTHING_TO_HEAR}: the recording is silent or constant"])
        mean = torch.stack(audible).mean(0)
        target = int(mean.argmax()) if target is None else target
        top = mean.topk(min(5, len(mean)))
        ranking = {self.classifier.labels[int(i)]: float(p) for p, i in zip(top.values, top.indices, strict=True)}
        example_files = ExampleFiles(self.folder)
        verdict, picture, part_files, pointless = self._explain(heard, target, example_files)
        label = self.classifier.labels[target]
        title = f"{self.recording.path.name}: {label} ({float(mean[target]):.2f}), {self.explainer_name}"
        parts, examples = part_files.finish(title), example_files.finish(title)
        if self.settings.match_loudness:
            for sound in (self.folder / "heard.wav", *(part.sound for part in parts)):
                self._match_loudness(sound)
        notes = [*notes, *pointless, *part_files.notes, *example_files.notes]
        result = self._finish(label, ranking, verdict, notes, parts, examples)
        draw_explanation(
            self.folder / "explanation.png",
            title=title,
            verdict=str(verdict),
            frequencies_hz=picture.frequencies_hz,
            duration_s=picture.duration_s,
            recording=picture.map("recording"),
            relevance=picture.map("relevance"),
            heard=picture.map("heard"),
        )
        return result

    def _chunks(self) -> Iterator[list[_Window]]:
        chunk: list[_Window] = []
        for start, waveform in self.recording.windows(self.classifier.rate, self.n_window, self.n_hop):
            window = _Window(start, waveform.shape[0], self._padded(waveform), bool(is_constant(waveform)))
            if chunk and window.waveform.shape != chunk[0].waveform.shape:
                yield chunk
                chunk = []
            chunk.append(window)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _padded(self, waveform: Tensor) -> Tensor:
        """A recording shorter than a fixed-duration classifier takes is followed by silence."""
        missing = self.n_window - waveform.shape[0]
        if self.classifier.duration_s is None or missing <= 0:
            return waveform
        return torch.nn.functional.pad(waveform, (0, missing))

    def _batch(self, windows: list[_Window]) -> Batch:
        name, rate = self.recording.path.name, self.classifier.rate
        clips = [Clip(window.waveform, rate, f"{name}@{window.start}", group=name) for window in windows]
        return Batch.of(clips, device=self.classifier.device)

    def _listen(self) -> _Heard:
        heard = _Heard()
        for chunk in self._chunks():
            probabilities = self.classifier.probabilities(self._batch(chunk).waveforms).cpu()
            for window, row in zip(chunk, probabilities, strict=True):
                heard.starts.append(window.start)
                heard.constant.append(window.constant)
                heard.probabilities.append(row)
                heard.n_clipped += int((window.waveform.abs() >= CLIPPED_LEVEL).sum())
                heard.n_samples += window.waveform.numel()
            self.progress(len(heard.starts), 2 * self.n_expected, "listening")
        return heard

    def _notes(self, heard: _Heard) -> list[str]:
        notes = []
        if self.recording.channels > 1:
            notes.append(f"{self.recording.channels} channels averaged to one")
        if self.recording.rate != self.classifier.rate:
            notes.append(f"resampled from {self.recording.rate} to {self.classifier.rate} Hz")
        if heard.n_clipped > 0.001 * heard.n_samples:
            share = heard.n_clipped / heard.n_samples
            notes.append(f"clipped: {share:.1%} of the samples are at full scale; distortion may be what is heard")
        if len(heard.starts) > 1:
            notes.append(f"explained in {len(heard.starts)} windows of {self.n_window / self.classifier.rate:g} s")
        fixed = self.classifier.duration_s
        if fixed is not None and self.recording.duration_s < fixed:
            notes.append(f"followed by silence up to the {fixed:g} s that {self.classifier.name} takes")
        return notes

    def _explain(
        self, heard: _Heard, target: int, example_files: ExampleFiles
    ) -> tuple[Verdict, StitchedPicture, PartFiles, list[str]]:
        """Second pass: explain each chunk, write what is heard and what is left, and put it to the test.

        The last item says in how many windows the explanation points at nothing.
        """
        rate = self.classifier.rate
        tested = self._windows_to_test(heard, target)
        duration_s = self.recording.duration_s
        n_columns = max(1, min(1200, round(duration_s * rate) // self.listening.hop_length))  # a frame in each, or more
        bins = self.listening.grid(self.listening.n_fft).frequencies_hz
        picture = StitchedPicture(duration_s, bins, n_columns, ("recording", "relevance", "heard"))
        part_files = PartFiles(self.folder, rate, duration_s, bins, n_columns, self.settings.rule)
        evidence: list[Evidence] = []
        done = n_pointless = 0
        rendered = ((chunk, *self._render(chunk, target)) for chunk in self._chunks())
        pieces = itertools.chain([next(rendered)], rendered)  # where a method fails at once, what was there stays
        clear(self.folder, keep=self.recording.path)
        with ExitStack() as stack:
            heard_file = stack.enter_context(StitchedSound(self.folder / "heard.wav", rate))
            rest_file = stack.enter_context(StitchedSound(self.folder / "rest.wav", rate))
            stack.enter_context(part_files)
            for chunk, scene, explanation, rendering in pieces:
                for name, values in explanation.diagnostics.items():
                    self.diagnostics[name] = max(self.diagnostics.get(name, -math.inf), float(values.max()))
                relevance = scene.importance(explanation)
                grid = self.listening.grid(scene.n_samples)
                for row, window in enumerate(chunk):
                    heard_file.add(window.start, rendering.heard[row, : window.n_samples])
                    rest_file.add(window.start, rendering.rest[row, : window.n_samples])
                    power = scene.magnitude[row].square()
                    maps = {
                        "recording": power,
                        "relevance": relevance[row],
                        "heard": power * rendering.gain[row].square(),
                    }
                    picture.add(window.start / rate, grid, maps)
                part_files.add(scene, explanation, rendering, [(window.start, window.n_samples) for window in chunk])
                example_files.add(explanation, [window.start / rate for window in chunk])
                rows = [row for row, window in enumerate(chunk) if window.start in tested]
                if rows:
                    evidence.append(self._test(scene, rendering, rows, target))
                n_pointless += int((rendering.mean_mask == 0).sum())
                done += len(chunk)
                self.progress(len(heard.starts) + done, 2 * len(heard.starts), "explaining")
        notes = []
        if n_pointless:
            where = "" if done == 1 else f" in {n_pointless} of {done} windows"
            notes.append(f"{self.explainer_name} points at nothing{where}, and nothing is heard there")
        return judge(self.classifier.labels[target], evidence), picture, part_files, notes

    @staticmethod
    def _windows_to_test(heard: _Heard, target: int) -> set[int]:
        audible = [
            (float(p[target]), start)
            for start, p, constant in zip(heard.starts, heard.probabilities, heard.constant, strict=True)
            if not constant
        ]
        return {start for _, start in sorted(audible, key=lambda item: (-item[0], item[1]))[:VERDICT_WINDOWS]}

    def _render(self, windows: list[_Window], target: int) -> tuple[Scene, Explanation, Rendering]:
        batch = self._batch(windows)
        scene = Scene(self.classifier, batch, self.listening, self.settings.route)
        classes = torch.full((len(batch),), target, device=self.classifier.device)
        random = Random(self.settings.seed, batch.clip_ids)
        explanation = self.explainer.explain(self.classifier, batch, target=classes, random=random)
        own = explanation.mask is not None or explanation.relevance is None
        rule = self.settings.rule or (Normalise() if own else _OF_RELEVANCE)
        self.rule = "own" if own and not isinstance(rule, Energy) else str(rule)
        return scene, explanation, render(scene, explanation, rule, self.settings.scale)

    def _test(self, scene: Scene, rendering: Rendering, rows: list[int], target: int) -> Evidence:
        if len(rows) < len(scene.batch):
            batch = Batch.of([scene.batch.clips[row] for row in rows], device=self.classifier.device)
            scene, rendering = Scene(self.classifier, batch, self.listening, scene.route), rendering.select(rows)
        classes = torch.full((len(rows),), target, device=self.classifier.device)
        random = Random(self.settings.seed, scene.batch.clip_ids)
        return gather_evidence(scene, rendering, classes, random=random, draws=self.settings.draws)

    def _match_loudness(self, sound: Path) -> None:
        """Write ``…_loud.wav`` beside a sound: the same at the recording's level, as far as its peak allows."""
        wanted = peak = energy = 0.0
        heard, rest = self.folder / "heard.wav", self.folder / "rest.wav"
        with soundfile.SoundFile(heard) as a, soundfile.SoundFile(rest) as b, soundfile.SoundFile(sound) as own:
            for x, y, z in zip(a.blocks(65536), b.blocks(65536), own.blocks(65536), strict=True):
                energy, wanted = energy + float((z**2).sum()), wanted + float(((x + y) ** 2).sum())
                peak = max(peak, float(abs(z).max()))
        gain = min((wanted / energy) ** 0.5, 1 / peak) if energy > 0 else 1.0
        loud_path = sound.with_name(f"{sound.stem}_loud.wav")
        with StitchedSound(loud_path, self.classifier.rate) as loud, soundfile.SoundFile(sound) as own:
            start = 0
            for x in own.blocks(65536, dtype="float32"):
                loud.add(start, gain * torch.from_numpy(x))
                start += len(x)

    def _finish(
        self,
        label: str | None,
        ranking: dict[str, float],
        verdict: Verdict | None,
        notes: list[str],
        parts: tuple[ExplainedPart, ...] = (),
        examples: tuple[RecordedExample, ...] = (),
    ) -> ExplainedRecording:
        said = None if verdict is None else {**asdict(verdict), "supported": verdict.supported, "word": verdict.word}
        stft = self.listening
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "file": str(self.recording.path),
            "recording": seen_from(self.folder, self.recording.path),
            "duration_s": self.recording.duration_s,
            "classifier": {"name": self.classifier.name, "checksum": self.classifier.checksum},
            "explainer": self.explainer_name,
            "label": label,
            "probabilities": ranking,
            "verdict": said,
            "status": "explained" if verdict else NOTHING_TO_HEAR,
            "rule": self.rule,
            "scale": self.settings.scale,
            "route": self.settings.route,
            "seed": self.settings.seed,
            "listening_stft": {"rate": stft.rate, "n_fft": stft.n_fft, "hop_length": stft.hop_length},
            "notes": notes,
            # The largest of all windows; a number that JSON does not have is null.
            "diagnostics": {n: value if math.isfinite(value) else None for n, value in self.diagnostics.items()},
            "parts": [part.document(self.folder) for part in parts],
            "examples": [example.document(self.folder) for example in examples],
        }
        write_json(self.folder / "explanation.json", document)
        return ExplainedRecording(self.folder, label, ranking, verdict, tuple(notes), parts, examples)
