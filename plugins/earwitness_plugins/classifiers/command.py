"""``earwitness train-classifier``: how the packaged weights came about, and how to make your own."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import json_option, seed_option
from earwitness.cli.progress import progress_bar


@click.command("train-classifier")
@click.argument("name", metavar="NAME")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Weights (safetensors).")
@click.option("--train-param", "train_params", metavar="NAME=VALUE", multiple=True, help="Changes the training data.")
@click.option(
    "--validation-param", "validation_params", metavar="NAME=VALUE", multiple=True, help="Changes the validation data."
)
@click.option("--test-param", "test_params", metavar="NAME=VALUE", multiple=True, help="Changes the test data.")
@click.option("--epochs", type=click.IntRange(1), help="Fewer or more passes than the recipe's.")
@seed_option
@click.option("--threads", type=click.IntRange(1), help="Part of the result's identity. Default: all cores.")
@json_option
def train_classifier(
    name: str,
    out: Path,
    train_params: tuple[str, ...],
    validation_params: tuple[str, ...],
    test_params: tuple[str, ...],
    epochs: int | None,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Train the architecture NAME (esc10-cnn, sb-cnn, att-crnn, toy-cnn or toy-wave-cnn) by its recipe.

    The weights of the epoch with the least validation loss are kept; the test data are looked at once, at the end.
    Training that was killed goes on from its last epoch when the same command is given again.

    \b
    Examples:
      earwitness train-classifier toy-cnn --out toy.safetensors
      earwitness train-classifier esc10-cnn --train-param "folds=[1,2,3]" --out esc10.safetensors
      earwitness explain dog.wav --weights esc10.safetensors
    """
    import torch

    from earwitness.artifacts import save_tensors, write_json
    from earwitness.parameters import parse_assignments
    from earwitness_plugins.classifiers.architectures import architecture, train

    if threads:
        torch.set_num_threads(threads)
    chosen = architecture(name)
    changes = {
        "train": parse_assignments(train_params),
        "validation": parse_assignments(validation_params),
        "test": parse_assignments(test_params),
    }
    started = time.monotonic()
    checkpoint = out.with_name(out.name + ".checkpoint")
    with progress_bar(f"training {name}", quiet=as_json) as progress:
        result, accuracies = train(
            chosen,
            plugins=current_registry(),
            changes=changes,
            epochs=epochs,
            seed=seed,
            checkpoint=checkpoint,
            progress=progress,
        )
    document: dict[str, Any] = {
        "architecture": name,
        "labels": list(chosen.labels),
        "seed": seed,
        "epoch": result.epoch,
        "accuracy": accuracies,
        "data": {split: {**chosen.data[split], **changes[split]} for split in chosen.data},
        "seconds": round(time.monotonic() - started, 1),
        "curves": vars(result.curves),
    }
    save_tensors(out, result.state_dict)
    write_json(out.with_suffix(".json"), document)
    checkpoint.unlink(missing_ok=True)
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    for split, accuracy in accuracies.items():
        click.echo(f"accuracy on the {split} data: {accuracy:.1%}")
    click.echo(f"weights of epoch {result.epoch}, after {document['seconds']:g} s: {out}")
