"""``earwitness train-head``: a linear layer on a published network's embeddings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import json_option
from earwitness.cli.progress import progress_bar


@click.command("train-head")
@click.argument("backbone", metavar="NETWORK")
@click.option("--dataset", required=True, metavar="NAME", help="One that has the parameter `folds`.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help="But for `folds`.")
@click.option("--folds", "n_folds", type=click.IntRange(3), default=5, show_default=True, help="How many it has.")
@click.option("--multilabel", is_flag=True, help="A clip may have several classes: sigmoid instead of softmax.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Weights (safetensors).")
@click.option("--threads", type=click.IntRange(1), help="Part of the result's identity. Default: all cores.")
@json_option
def train_head(
    backbone: str,
    dataset: str,
    dataset_params: tuple[str, ...],
    n_folds: int,
    multilabel: bool,
    out: Path,
    threads: int | None,
    as_json: bool,
) -> None:
    """Train a linear classifier on what NETWORK (yamnet or efficientat-mn04) knows of each clip.

    Logistic regression. The last fold is the test data, the one before it selects the strength of the L2
    penalty, the others are trained on; rotating the folds gives the cross-validated accuracy in the report (of a
    multilabel head: the macro average precision).

    \b
    Examples:
      earwitness train-head yamnet --dataset esc10 --out head.safetensors
      earwitness train-head yamnet --dataset overlaps --dataset-param recordings=esc10 --multilabel --out h.safetensors
      earwitness explain dog.wav --classifier yamnet-esc10 --weights head.safetensors
    """
    import torch

    from earwitness.artifacts import write_json
    from earwitness.loading import load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_plugins.classifiers.linear_head import cross_validate, embed, save_head
    from earwitness_plugins.classifiers.pretrained import pretrained_network
    from earwitness_plugins.classifiers.published_weights import WEIGHTS

    if threads:
        torch.set_num_threads(threads)
    plugins = current_registry()
    own = parse_assignments(dataset_params)
    network = pretrained_network(backbone)
    started = time.monotonic()
    with progress_bar(f"training a head on {backbone}", quiet=as_json) as progress:
        data = [load_dataset(dataset, parameters={**own, "folds": [k + 1]}, plugins=plugins) for k in range(n_folds)]
        labels = data[0].labels
        folds = [embed(backbone, network, fold, labels, progress, multilabel=multilabel) for fold in data]
        results = cross_validate(folds, len(labels), progress)
    chosen = results[-1]
    save_head(out, chosen.head, backbone=backbone, dataset=dataset, labels=labels, multilabel=multilabel)
    by_fold = [result.test_quality for result in results]
    quality = "average_precision" if multilabel else "accuracy"
    report: dict[str, Any] = {
        "backbone": backbone,
        "backbone_sha256": WEIGHTS[backbone].sha256,
        "dataset": dataset,
        "parameters": own,
        "labels": list(labels),
        "clips": [len(fold) for fold in data],
        "folds": {"train": list(range(1, n_folds - 1)), "validation": n_folds - 1, "test": n_folds},
        "penalty": chosen.penalty,
        quality: {"validation": chosen.validation_quality, "test": chosen.test_quality},
        "cross_validation": {
            quality: sum(share * len(fold) for share, fold in zip(by_fold, data, strict=True)) / sum(map(len, data)),
            f"{quality}_by_fold": by_fold,
            "penalties": [result.penalty for result in results],
        },
        "seconds": round(time.monotonic() - started, 1),
    }
    write_json(out.with_suffix(".json"), report)
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    said = quality.replace("_", " ")
    click.echo(f"{said} on the validation data: {chosen.validation_quality:.1%}, test: {chosen.test_quality:.1%}")
    click.echo(f"cross-validated over {n_folds} folds: {report['cross_validation'][quality]:.1%}")
    click.echo(f"head with penalty {chosen.penalty:g}, after {report['seconds']:g} s: {out}")
