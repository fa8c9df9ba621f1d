"""``earwitness learn-patterns``: a dictionary that one can look at and listen to."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import classifier_options, classifier_parameters, device_option, json_option, seed_option
from earwitness.cli.progress import progress_bar


@click.command("learn-patterns")
@click.option("--dataset", required=True, metavar="NAME", help="See `earwitness list datasets`.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[1,2,3]".')
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder for the result.")
@classifier_options
@click.option(
    "--stft",
    "frames",
    type=(int, int, int),
    metavar="RATE N_FFT HOP",
    help="In Hz and samples, instead of the classifier's listening STFT.",
)
@click.option("--patterns", "n_patterns", type=int, help="Default: 100.")
@click.option("--sparsity", type=float, default=0.8, show_default=True, help="Weight mu of the activations' sum.")
@click.option("--average", type=int, default=1, show_default=True, help="Frames that are averaged into one.")
@click.option("--max-frames", type=int, help="Learn from about as many, drawn from all clips.")
@click.option(
    "--method",
    type=click.Choice(["hals", "multiplicative"]),
    default="hals",
    show_default=True,
    help="Of the updates: coordinate descent (hals), which is quicker, or the multiplicative ones.",
)
@click.option("--restarts", type=int, default=1, show_default=True, help="Random starts; the best is kept.")
@click.option("--class-wise", is_flag=True, help="Noise first, from clips without a label; then class by class.")
@click.option(
    "--class-param",
    "class_params",
    metavar="NAME=VALUE",
    multiple=True,
    help="noise_patterns, patterns_per_class, clips_per_class or keep_noise of the class-wise scheme.",
)
@seed_option
@device_option
@json_option
def learn_patterns(
    dataset: str,
    dataset_params: tuple[str, ...],
    out: Path,
    classifier: str,
    classifier_params: tuple[str, ...],
    weights: str | None,
    frames: tuple[int, int, int] | None,
    class_wise: bool,
    class_params: tuple[str, ...],
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Learn spectral patterns from a data set by Sparse-NMF.

    For the listening STFT of a classifier (or --stft) this writes to DIR:

    \b
      dictionary.safetensors, dictionary.json  the patterns, and what they are for
      patterns.png                             all of them
      patterns/000.png, patterns/000.wav, …    each: weights over Hz, and its share of the clip where it is strongest
      patterns.json                            all settings, and where each sound is from

    A run that was killed goes on where it was when the same command is given again.

    \b
    Examples:
      earwitness learn-patterns --dataset esc10 --dataset-param "folds=[1,2,3]" --out patterns
      earwitness learn-patterns --dataset overlaps --class-wise --class-param noise_patterns=0 --out patterns
    """
    from earwitness.audio.stft import ListeningSTFT
    from earwitness.loading import load_classifier, load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_plugins.sparse_nmf.publication import class_wise_of, publish

    plugins = current_registry()
    if frames is not None:
        stft = ListeningSTFT(*frames)
    else:
        own = classifier_parameters(classifier_params, weights)
        stft = load_classifier(classifier, parameters=own, plugins=plugins).listening
    data = load_dataset(dataset, parameters=parse_assignments(dataset_params), plugins=plugins)
    scheme = class_wise_of(class_wise, parse_assignments(class_params), settings["n_patterns"])
    settings["n_patterns"] = 100 if settings["n_patterns"] is None else settings["n_patterns"]
    started = time.monotonic()
    with progress_bar("learning patterns", quiet=as_json) as progress:
        document = publish(
            data, stft, out, settings={**settings, "class_wise": scheme}, device=device, progress=progress
        )
    seconds = round(time.monotonic() - started, 2)
    if as_json:
        click.echo(json.dumps({**document, "folder": str(out), "seconds": seconds}))
        return
    click.echo(f"{len(document['patterns'])} patterns from {document['clips']} clips ({seconds:g} s): {out}")
    click.echo(f"look at {out / 'patterns.png'} and listen to {out / 'patterns'}")
