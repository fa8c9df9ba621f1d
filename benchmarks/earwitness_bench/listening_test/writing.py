"""Writes a listening test: sounds under names that say nothing, and one page that plays them."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray

from earwitness.artifacts import digest_of, write_atomically
from earwitness.audio.budget import EnergyBudget
from earwitness.errors import ConfigurationError, StoreError, nearest
from earwitness.protocols import Progress
from earwitness.random import Random, stream_seed
from earwitness.registry import Registry
from earwitness.verdict import random_mask
from earwitness_bench import media
from earwitness_bench.leaderboard import make_tables
from earwitness_bench.listening_test.key import Key, Stimulus, Trial, write_key
from earwitness_bench.replay import Replay, Replayed
from earwitness_bench.report.facts import ArenaFacts, Row, gather
from earwitness_bench.report.pages import STATIC as LOOKS
from earwitness_bench.report.pages import environment
from earwitness_bench.store import Store

CLIPS = 10
"""Trials, unless told otherwise: with seven sounds each, about twenty minutes."""

EXPLAINERS = 6
"""The best ones of the leaderboard, unless others are named."""

MOST_SOUNDS = 12
"""On one page, hidden reference and anchor included (ITU-R BS.1534)."""

ANCHOR_ENERGY = 0.3
"""Share of the recording's energy that the anchor's random mask keeps."""

_STATIC = Path(__file__).parent / "static"
_MARK = ".earwitness-listening-test"
_WRITTEN = 1_577_836_800
"""When all sounds were written, as far as raters know: methods are made in order, and a folder sorts by time."""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    folder, key : Path
        The pages, and the file that must not be given to raters.
    test : str
        Identity.
    trials, sounds : int
        Without the training; sounds of a trial.
    explainers : tuple of str
    """

    folder: Path
    key: Path
    test: str
    trials: int
    sounds: int
    explainers: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What is compared.

    Attributes
    ----------
    arena : str, optional
        Title; default: the first one.
    explainers : sequence of str
        Titles; default: the six best.
    clips : int
        Trials.
    seed : int
        Of the choice of clips, of all orders, and of names.
    """

    arena: str = ""
    explainers: Sequence[str] = ()
    clips: int = CLIPS
    seed: int = 0


def write_test(
    results: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    registry: Registry,
    choice: Choice = Choice(),
    device: torch.device | str = "cpu",
    progress: Progress = lambda done, total, text: None,
) -> Written:
    """Write a blind test of what explainers keep of recordings.

    Parameters
    ----------
    results : str or Path
        Results folder; it gets the key.
    out : str or Path
        Folder of the pages; is made, or the test in it replaced.
    registry : Registry
    choice : Choice
    device : torch.device or str
    progress : callable (done, total, text)

    Raises
    ------
    ConfigurationError
        An arena or explainer does not exist, there are too many, or no clip was explained by all of them.
    StoreError
        There are no results, or ``out`` holds something else.
    """
    store, folder = Store(results), Path(out)
    plan = store.read_plan()
    place = _arena(plan, choice.arena)
    arena = plan["arenas"][place]
    explainers = _explainers(store, place, arena, choice.explainers)
    rows = _rows(gather(store)[place], explainers, choice)
    keys = {e["title"]: [cell["explain"] for cell in e["cells"]] for e in arena["explainers"]}
    identity = [
        arena["title"],
        choice.seed,
        explainers,
        [(row.name, keys[e][row.chunk]) for row in rows for e in explainers],
    ]
    digest = digest_of(identity)
    test, secret = digest[:12], digest[12:]  # who has the pages knows the one, and not the other
    _clear(folder)
    replay = Replay(store, place, registry=registry, device=device)
    writer = _Writer(replay, folder, secret, explainers)
    trials = []
    for number, row in enumerate(rows):
        trials.append(writer.trial(row, {e: keys[e][row.chunk] for e in explainers}, training=number == 0))
        progress(number + 1, len(rows), "making sounds")
    key = Key(test, arena["title"], choice.seed, plan.get("suite", {}).get("rule", ""), tuple(trials))
    _write_page(folder, key)
    return Written(folder, write_key(store, key), test, len(trials) - 1, len(explainers) + 2, tuple(explainers))


class _Writer:
    """Makes the sounds of one trial after another."""

    def __init__(self, replay: Replay, folder: Path, secret: str, explainers: Sequence[str]) -> None:
        self._replay, self._folder, self._secret, self._explainers = replay, folder, secret, explainers

    def trial(self, row: Row, explained: dict[str, str], *, training: bool) -> Trial:
        prepared = self._replay.prepared(row.chunk)
        place = prepared.row_ids.index(row.name)
        scene = prepared.scene
        gain = media.loudness_gain(scene.batch.waveforms[place : place + 1].cpu().numpy())[0]
        recording = scene.batch.waveforms[place]

        def entry(kind: str, waveform: torch.Tensor, explainer: str = "") -> Stimulus:
            token = self._token(row, f"{kind} {explainer}")
            self._write(token, gain * waveform.detach().float().cpu().numpy())
            return Stimulus(token, kind, explainer, explained.get(explainer, ""))  # type: ignore[arg-type]

        random = Random(stream_seed(self._secret), prepared.row_ids)
        noise = EnergyBudget(random_mask(scene, random, "anchor"), scene.magnitude).gain(ANCHOR_ENERGY)
        stimuli = [entry("reference", recording), entry("anchor", scene.sound(noise)[place])]
        for explainer in self._explainers:
            played: Replayed = self._replay.play(explainer, row.chunk, [row.name])
            stimuli.append(entry("method", played.heard[0], explainer))
        order = sorted(stimuli, key=lambda one: stream_seed(self._secret, "order", one.token))
        opened = self._token(row, "open reference")
        self._write(opened, gain * recording.cpu().numpy())
        return Trial(self._token(row, "trial"), row.name, row.group, row.target, opened, training, tuple(order))

    def _token(self, row: Row, what: str) -> str:
        """A name that says nothing to somebody who has only the pages."""
        return digest_of([self._secret, row.name, what])[:16]

    def _write(self, token: str, samples: NDArray[np.float32]) -> None:
        """Without loss: nobody shall rate a codec."""
        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(samples, -1, 1), self._replay.rate, format="FLAC", subtype="PCM_16")
        path = self._folder / "sounds" / f"{token}.flac"
        path.write_bytes(buffer.getvalue())
        os.utime(path, (_WRITTEN, _WRITTEN))


def _write_page(folder: Path, key: Key) -> None:
    """The page, and nothing that tells methods apart: tokens in shuffled order."""
    trials = [
        {
            "trial": trial.token,
            "class": trial.target,
            "reference": trial.reference,
            "training": trial.training,
            "sounds": [one.token for one in trial.stimuli],
        }
        for trial in key.trials
    ]
    page = environment("earwitness_bench.listening_test").get_template("test.html")
    write_atomically(folder / "index.html", page.render(test={"test": key.test, "trials": trials}).encode())
    for asset in (LOOKS / "report.css", _STATIC / "test.css", _STATIC / "test.js"):
        write_atomically(folder / asset.name, asset.read_bytes())


def _arena(plan: dict[str, Any], title: str) -> int:
    titles = [arena["title"] for arena in plan["arenas"]]
    if title and title not in titles:
        raise ConfigurationError(f"These results have no arena {title!r}. {nearest(title, titles)}")
    return titles.index(title) if title else 0


def _explainers(store: Store, place: int, arena: dict[str, Any], asked: Sequence[str]) -> list[str]:
    titles = [e["title"] for e in arena["explainers"]]
    for title in asked:
        if title not in titles:
            raise ConfigurationError(f"There are no results of {title!r}. {nearest(title, titles)}")
    if len(set(asked)) < len(asked):
        raise ConfigurationError(f"An explainer is named twice: {', '.join(asked)}.")
    if len(asked) + 2 > MOST_SOUNDS:
        raise ConfigurationError(
            f"{len(asked)} explainers, the hidden reference and the anchor are more than the {MOST_SOUNDS} sounds that "
            "people can compare on one page. Name fewer."
        )
    if asked:
        return list(asked)
    standings = make_tables(store)[place].standings
    chosen = [s.explainer for s in standings if s.scope != "control" and s.clips][:EXPLAINERS]
    if not chosen:
        raise ConfigurationError("Nothing but controls was explained. Name explainers.")
    return chosen


def _rows(facts: ArenaFacts, explainers: Sequence[str], choice: Choice) -> list[Row]:
    """Rows that all of them explained, seeded, from one class after the other; the first one is for training."""
    candidates = [
        row
        for row in facts.rows.values()
        if all((found := facts.results[e].get(row.name)) and found.outcome == "explained" for e in explainers)
    ]
    candidates.sort(key=lambda row: stream_seed(choice.seed, "clip", row.name))
    chosen = list(_one_class_after_the_other(candidates))[: choice.clips + 1]
    if len(chosen) < 2:
        raise ConfigurationError(
            f"{len(chosen)} clips were explained by all of {', '.join(explainers)}; a test needs one for training and "
            "at least one more. Name other explainers."
        )
    return chosen


def _one_class_after_the_other(rows: Sequence[Row]) -> Iterator[Row]:
    by_class: dict[str, list[Row]] = {}
    for row in rows:
        by_class.setdefault(row.target, []).append(row)
    for depth in range(max(map(len, by_class.values()), default=0)):
        yield from (own[depth] for own in by_class.values() if depth < len(own))


def _clear(folder: Path) -> None:
    try:
        if folder.exists() and any(folder.iterdir()):
            if not (folder / _MARK).is_file():
                raise StoreError(f"{folder} holds something that is no listening test. Choose another --out.")
            shutil.rmtree(folder)
        (folder / "sounds").mkdir(parents=True)
        (folder / _MARK).touch()
    except OSError as error:
        raise StoreError(f"Cannot write the test to {folder}: {error.strerror}.") from error
