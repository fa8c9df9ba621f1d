"""The stored sounds that a recording was compared with, as files beside its explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from earwitness.errors import StoreError
from earwitness.explanation import Example, Explanation
from earwitness.pictures import draw_examples

EXAMPLES_WRITTEN = 5


@dataclass(frozen=True)
class RecordedExample:
    """An example of an explained recording.

    Attributes
    ----------
    example : Example
        As it was in the window in which it is most similar.
    start_s : float
        Where that window begins.
    sound : Path
        WAV file.
    """

    example: Example
    start_s: float
    sound: Path

    def document(self, folder: Path) -> dict[str, Any]:
        """As JSON, with paths relative to a folder."""
        example = self.example
        numbers = {"similarity": example.similarity, "contribution": example.contribution, "start_s": self.start_s}
        bands = example.bands
        curves = None
        if bands is not None:
            curves = {name: getattr(bands, name).tolist() for name in bands.__dataclass_fields__}
        return {"name": example.name, **numbers, "sound": self.sound.relative_to(folder).as_posix(), "bands": curves}


class ExampleFiles:
    """Collects the examples of a recording's windows, and writes the most similar ones.

    Parameters
    ----------
    folder : Path
        Gets a folder ``examples`` with a sound for each, and ``examples.png`` where they are compared band by band.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nearest: dict[str, tuple[Example, float]] = {}
        self._n_windows = self._n_alien = 0

    def add(self, explanation: Explanation, starts_s: Sequence[float]) -> None:
        """Add a batch of windows that begin at these times, length B; one without examples adds nothing."""
        for examples, start_s in zip(explanation.examples, starts_s, strict=False):
            self._n_windows += 1
            self._n_alien += not examples
            for example in examples:
                known = self._nearest.get(example.name)
                if known is None or example.similarity > known[0].similarity:
                    self._nearest[example.name] = (example, start_s)

    @property
    def notes(self) -> list[str]:
        """What a reader should know."""
        if not self._n_alien:
            return []
        where = "the recording" if self._n_windows == 1 else f"{self._n_alien} of {self._n_windows} windows"
        return [f"no stored sound is close to {where}: what is decided there, is decided on next to no evidence"]

    def finish(self, title: str) -> tuple[RecordedExample, ...]:
        """Write the sounds and the picture.

        Returns
        -------
        tuple of RecordedExample
            The most similar first.

        Raises
        ------
        StoreError
            A file cannot be written.
        """
        found = sorted(self._nearest.values(), key=lambda item: -item[0].similarity)[:EXAMPLES_WRITTEN]
        written = []
        for number, (example, start_s) in enumerate(found, start=1):
            path = self._folder / "examples" / f"example-{number}.wav"
            try:
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, example.waveform.cpu().numpy(), example.rate, subtype="FLOAT")
            except (OSError, soundfile.LibsndfileError) as error:
                raise StoreError(f"Cannot write {path}: {error}. Is the folder writable?") from error
            written.append(RecordedExample(example, start_s, path))
        compared = [example for example, _ in found if example.bands is not None]
        if compared:
            draw_examples(self._folder / "examples.png", title=title, examples=compared)
        return tuple(written)
