"""``earwitness demo``: a first tour."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.progress import progress_bar

TOY_CLIPS = (0, 1, 3)
TAUGHT = {"l2i": {"patterns": 24, "width": 32, "epochs": 6}, "lmac": {"steps": 60, "width": 64}}
"""Methods that are fitted, and with what."""
OWN = {
    "model": {
        "rate": 16000,
        "n_fft": 1024,
        "hop_length": 512,
        "n_mels": 64,
        "n_frames": 28,
        "channels": [16, 16, 16],
        "prototypes_per_class": 4,
    },
    "training": {"epochs": 12, "batch_size": 8, "learning_rate": 2e-3, "prototypes": "data", "class_blocks": True},
}
"""Of the classifier that explains itself: small, and trained in seconds."""
TRAIN = {"split": "train", "clips": 60}
REAL_CLASSES = ("dog", "rooster", "crying_baby")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("earwitness-demo"),
    show_default=True,
    metavar="DIR",
    help="Folder for sounds, pictures and results.",
)
@click.option("--esc10", type=click.Path(path_type=Path), metavar="DIR", help="A copy of ESC-10; see above.")
def demo(out: Path, esc10: Path | None) -> None:
    """A first tour: explanations one can hear, with verdicts, and a leaderboard.

    It runs on synthetic sounds and, where a copy of ESC-10 is at hand (--esc10, EARWITNESS_DATA/esc10, or fetched with
    `earwitness download esc10`), on real recordings. It takes a few minutes; a second call takes seconds.

    \b
    Example:
      earwitness demo --out tour
    """
    from earwitness.errors import DatasetError
    from earwitness.loading import load_dataset

    started = time.monotonic()
    plugins = current_registry()
    parameters = {"folds": [5], **({"folder": str(esc10)} if esc10 else {})}
    try:
        real = load_dataset("earwitness:esc10", parameters=parameters, plugins=plugins)
    except DatasetError as error:
        if esc10:
            raise
        click.echo(f"note: synthetic sounds only. {error}\n")
        real = None
    click.echo(click.style("1. What did the classifier hear?", bold=True))
    toy = load_dataset("earwitness:toy", parameters={"split": "test", "clips": 8}, plugins=plugins)
    _explain([toy[index] for index in TOY_CLIPS], "earwitness:toy-cnn", out / "sounds")
    if real is not None:
        chosen = [next(i for i, entry in enumerate(real.entries) if name in entry.labels) for name in REAL_CLASSES]
        _explain([real[index] for index in chosen], "earwitness:esc10-cnn", out / "sounds")
    click.echo(
        click.style(
            "\n2. Methods that learn first: which patterns of sound did it think in, and which part convinces it?",
            bold=True,
        )
    )
    for name, settings in TAUGHT.items():
        _teach(name, settings, toy[0], out)
    click.echo(click.style("\n3. A classifier that explains itself: which stored sounds is this like?", bold=True))
    _train_own(toy[0], out)
    click.echo(click.style("\n4. Which method can be trusted?", bold=True))
    _rank(out / "results", parameters if real is not None else None)
    click.echo(f"{time.monotonic() - started:.0f} s. Sounds and pictures: {out / 'sounds'}. Now with your own:")
    click.echo("  earwitness explain RECORDING.wav")
    click.echo("  earwitness explain RECORDING.wav --classifier your_package.module:make_classifier")


def _teach(name: str, settings: dict[str, Any], clip: Any, out: Path) -> None:
    """Fit a method to the synthetic sounds, and explain one with it."""
    from earwitness.fitting import fit
    from earwitness.loading import load_classifier, load_dataset

    plugins = current_registry()
    classifier = load_classifier("earwitness:toy-cnn", plugins=plugins)
    train = load_dataset("earwitness:toy", parameters=TRAIN, plugins=plugins)
    with progress_bar(f"fitting {name}") as progress:
        method = fit(
            plugins, f"earwitness:{name}", classifier, train, out / name, parameters=settings, progress=progress
        )
    _explain([clip], classifier, out / "sounds" / name, method, name)


def _train_own(clip: Any, out: Path) -> None:
    """Train APNet on the synthetic sounds, let it explain one, and write its prototypes as a book."""
    from earwitness.fitting import train
    from earwitness.loading import load_dataset, load_self_explaining

    plugins = current_registry()
    data = load_dataset("earwitness:toy", parameters=TRAIN, plugins=plugins)
    with progress_bar("training apnet") as progress:
        train(plugins, "earwitness:apnet", data, out / "apnet", parameters=OWN, progress=progress)
    classifier, method = load_self_explaining("earwitness:apnet", out / "apnet", plugins=plugins)
    _explain([clip], classifier, out / "sounds" / "apnet", method, "apnet")
    click.get_current_context().invoke(
        plugins.command("earwitness:prototypes").spec.load(),
        folder=out / "apnet",
        out=out / "prototypes",
        dataset="earwitness:toy",
        dataset_params=tuple(f"{name}={value}" for name, value in TRAIN.items()),
        as_json=False,
    )


def _explain(
    clips: list[Any],
    classifier: Any,
    folder: Path,
    explainer: Any = None,
    explainer_name: str = "integrated-gradients",
) -> None:
    """Write each clip as a file, and explain it as a user would: by a classifier, or by the one of that name."""
    from earwitness.audio.files import write_audio
    from earwitness.cli.explain import say
    from earwitness.loading import load_classifier, load_explainer
    from earwitness.recordings import explain_recording

    plugins = current_registry()
    if isinstance(classifier, str):
        classifier = load_classifier(classifier, plugins=plugins)
    method = explainer or load_explainer(f"earwitness:{explainer_name}", plugins=plugins)
    for clip in clips:
        target = folder / f"{clip.labels[0]}-{clip.clip_id}"
        target.mkdir(parents=True, exist_ok=True)
        recording = write_audio(target / "recording.wav", clip.waveform, clip.rate)
        with progress_bar(clip.clip_id) as progress:
            result = explain_recording(
                recording,
                target,
                classifier=classifier,
                explainer=method,
                explainer_name=explainer_name,
                progress=progress,
            )
        say(recording, result)


def _rank(out: Path, esc10: dict[str, Any] | None) -> None:
    """The suite ``quick`` and, where there are real recordings, sixteen of them beside it."""
    from earwitness_bench.leaderboard import FORMATS, make_tables
    from earwitness_bench.monitor import Tally, console
    from earwitness_bench.results import write_parquet
    from earwitness_bench.runner import run_suite
    from earwitness_bench.store import Store
    from earwitness_bench.suite import Arena, Reference, load_suite

    suite = load_suite("quick")
    if esc10 is not None:
        arena = Arena(
            dataset=Reference(name="earwitness:esc10", parameters=esc10),
            classifier=Reference(name="earwitness:esc10-cnn"),
            clips=16,
        )
        suite = suite.model_copy(update={"arenas": (*suite.arenas, arena)})
    tally = Tally()
    with console(tally):
        run_suite(suite, out, registry=current_registry(), observer=tally)
    store = Store(out)
    write_parquet(store)
    click.echo(FORMATS["table"](make_tables(store)))
