"""Do the subspaces of a class belong to it? Its explanations, taken apart by the subspaces of every other class.

A clip of class j is explained as class j, and the relevance of *its own* logit is taken apart by what was fitted to
class i. Patches of that clip are flipped in the order of these parts. ΔAUPC is what the one whole map scores less what
the parts score (see ``aupc-thesis``), so it has no scale of the class's logits. If the subspaces of j serve its clips
better than those of the others do, they say something about j.

The whole map of a clip is the same in all its cells: only the subspaces differ, so a row compares like with like. The
published matrix flipped the clips of class i by the maps of clips of class j; only on its diagonal did maps and clips
belong together, and the diagonal was the largest.

Source: the DRSA audio thesis, section 4.2.3.2 and figure 4.10 (rows: attributed class, columns: subspaces), with
matched clips, and at the true fraction beside the coded one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earwitness.artifacts import digest_of, write_json
from earwitness.clips import Dataset
from earwitness.errors import ConfigurationError, EarwitnessError
from earwitness.identity import digest_of_tensors
from earwitness.parameters import build, resolved_parameters
from earwitness.protocols import Explainer, Fittable, Progress
from earwitness.registry import Registry
from earwitness_bench.identity import plugin_identity
from earwitness_bench.metrics.patch_flipping import ThesisAUPC
from earwitness_bench.store import Store
from earwitness_bench.studies.cells import Cell, Ran, run_cells
from earwitness_bench.studies.figures import Matrix, draw_matrices
from earwitness_bench.studies.material import Material
from earwitness_bench.studies.summaries import floats, mean, mean_and_interval
from earwitness_bench.tabulation import json_number

NAME = "cross-class"
METRIC = "earwitness:aupc-thesis"
COLUMNS = {"delta_aupc_true_fraction": "at the true fraction", "delta_aupc_thesis": "as the thesis codes it"}
"""The scores, by the metric's name, and what the figure calls them."""

_OF_A_CLASS = re.compile(r"(\d+)/(.+)")


@dataclass(frozen=True)
class Design:
    """What is compared.

    Attributes
    ----------
    explainer : str
        One whose fitted state is a set of tensors for each class, named ``INDEX/…``, such as ``drsa``.
    parameters : dict
    clips_per_class : int
        At most so many clips of each class are flipped, the first ones.
    seed : int
    chunk_size : int
        Clips at once.
    """

    explainer: str
    parameters: dict[str, Any]
    clips_per_class: int
    seed: int
    chunk_size: int


@dataclass(frozen=True, eq=False)
class Exchange:
    """Subspaces, by class, and whoever takes them up."""

    registry: Registry
    design: Design
    state: Mapping[str, Tensor]
    classes: tuple[int, ...]

    @classmethod
    def of(cls, registry: Registry, design: Design, fitted: Fittable) -> Exchange:
        """Of a fitted explainer.

        Raises
        ------
        ConfigurationError
            Nothing in it belongs to a class.
        """
        state = dict(fitted.state())
        classes = tuple(sorted({int(found[1]) for found in map(_OF_A_CLASS.fullmatch, state) if found}))
        if len(classes) < 2:
            raise ConfigurationError(
                f"{NAME} exchanges what was fitted to one class for what was fitted to another, and {design.explainer} "
                f"has {'nothing of any class' if not classes else 'one class only'}. Use `drsa`, and training data of "
                "which the classifier recognises at least two classes."
            )
        return cls(registry, design, state, classes)

    def of_class(self, index: int) -> dict[str, Tensor]:
        """The tensors of a class, by the rest of their names."""
        found = {name: _OF_A_CLASS.fullmatch(name) for name in self.state}
        return {match[2]: self.state[name] for name, match in found.items() if match and int(match[1]) == index}

    def explainer(self, *, clips_of: int, subspaces_of: int) -> Explainer:
        """One that explains a class by the subspaces of another."""
        shared = {name: tensor for name, tensor in self.state.items() if not _OF_A_CLASS.fullmatch(name)}
        own = {f"{clips_of}/{name}": tensor for name, tensor in self.of_class(subspaces_of).items()}
        fresh: Fittable = build(self.registry.explainer(self.design.explainer).spec, self.design.parameters)
        return fresh.load_state({**shared, **own})


def run_cross_class(
    design: Design, out: Path, *, material: Material, train: Dataset, progress: Progress
) -> tuple[dict[str, Any], Ran]:
    """Fit, exchange, flip; write ``cross-class.json``, ``.png`` and ``.svg``.

    Parameters
    ----------
    design : Design
    out : Path
        Results folder, see :mod:`earwitness_bench.store`.
    material : Material
        Its clips are flipped.
    train : Dataset
        What is fitted to.
    progress : callable (done, total, text)

    Returns
    -------
    document : dict
        What the JSON file holds.
    ran : Ran

    Raises
    ------
    ConfigurationError
        The explainer has nothing for each class, the data share clips with the training data, or hold no clip of a
        fitted class.
    EarwitnessError
        Something cannot be fitted; or nothing could be scored.
    """
    dataset, classifier = material.dataset, material.classifier
    shared = {entry.clip_id for entry in train.entries} & {entry.clip_id for entry in dataset.entries}
    if shared:
        raise ConfigurationError(
            f"{len(shared)} clips are both fitted to and flipped, such as {min(shared)!r}. Choose another split."
        )
    store = Store(out, create=True)
    exchange = Exchange.of(material.registry, design, _fitted(design, store, material, train, progress))
    labels = {index: classifier.labels[index] for index in exchange.classes}
    clips = {index: _clips_of(dataset, label, design.clips_per_class) for index, label in labels.items()}
    rows = [index for index in exchange.classes if clips[index]]
    if not rows:
        raise ConfigurationError(f"The data have no clip of a class with subspaces: {', '.join(labels.values())}.")
    common = _common_identity(design, material)
    places = [(row, column) for row in rows for column in exchange.classes]
    cells = [
        Cell(
            f"{labels[row]} by the subspaces of {labels[column]}",
            {
                **common,
                "clips": material.identity_of_clips(clips[row]),
                "clips_of": labels[row],
                "subspaces": digest_of_tensors(exchange.of_class(column)),
            },
            partial(_flip, exchange, material, clips[row], row, column),
        )
        for row, column in places
    ]
    ran = run_cells(store, NAME, cells, progress)
    if not any(ran.results):
        raise EarwitnessError(f"No cell of {NAME} could be computed: {ran.failed[0]}")
    results = dict(zip(places, ran.results, strict=True))
    groups = {row: [dataset.entries[number].group for number in clips[row]] for row in rows}
    document = {
        "study": NAME,
        "settings": {**common, "train": [len(train), digest_of([e.fingerprint for e in train.entries])]},
        "rows": [labels[row] for row in rows],
        "columns": list(labels.values()),
        "clips": [len(clips[row]) for row in rows],
        "groups": {labels[row]: own for row, own in groups.items()},
        "scores": {name: _summary(name, exchange.classes, results, groups) for name in COLUMNS},
    }
    write_json(out / f"{NAME}.json", document)
    _draw(out / NAME, document, classifier.name)
    return document, ran


def _fitted(design: Design, store: Store, material: Material, train: Dataset, progress: Progress) -> Fittable:
    spec = material.registry.explainer(design.explainer).spec
    identity = {
        **_common_identity(design, material),
        "train": [[entry.clip_id, entry.labels, entry.fingerprint] for entry in train.entries],
    }
    return material.fitted(
        design.explainer,
        train,
        store.folder / "fits" / f"{spec.name}-{digest_of(identity)[:16]}",
        parameters=design.parameters,
        seed=design.seed,
        progress=lambda done, total, text: progress(done, total, f"fitting {spec.name}: {text}"),
    )


def _common_identity(design: Design, material: Material) -> dict[str, Any]:
    spec, metric = material.registry.explainer(design.explainer).spec, material.registry.metric(METRIC)
    return {
        **material.identity(design.explainer),
        "parameters": resolved_parameters(spec, design.parameters),
        "metric": [metric.qualified_name, metric.spec.version, plugin_identity(metric)],
        "seed": design.seed,
        "chunk_size": design.chunk_size,
    }


def _clips_of(dataset: Dataset, label: str, most: int) -> tuple[int, ...]:
    return tuple(number for number, entry in enumerate(dataset.entries) if label in entry.labels)[:most]


def _flip(exchange: Exchange, material: Material, clips: tuple[int, ...], row: int, column: int) -> dict[str, Any]:
    """Flip the clips of one class by the subspaces of another: all scores of all clips, in order."""
    design = exchange.design
    explainer = exchange.explainer(clips_of=row, subspaces_of=column)
    scores: dict[str, list[float | None]] = {name: [None] * len(clips) for name in COLUMNS}
    for chunk, batch in material.batches(clips, design.chunk_size):
        target = torch.full((len(batch),), row, device=batch.waveforms.device)
        context = material.explained(explainer, batch, target, study=NAME, seed=design.seed)
        found = ThesisAUPC().score(context.explanation, context)
        for name, values in scores.items():
            column_values = found[name]
            assert isinstance(column_values, Tensor)
            for place, value in zip(chunk, column_values.tolist(), strict=True):
                values[place] = json_number(value)
    return scores


def _summary(
    name: str,
    columns: tuple[int, ...],
    results: Mapping[tuple[int, int], dict[str, Any] | None],
    groups: Mapping[int, list[str]],
) -> dict[str, Any]:
    """Of one score: the values of each clip, their means, and what a class's own subspaces gain over the others'.

    ``advantage``: for each row, mean over its clips of the score by its own subspaces less the mean score by those of
    the other classes, with a paired 95 % interval that resamples source recordings; None where a cell is missing.
    """
    kept = {place: None if found is None else found[name] for place, found in results.items()}
    values = {place: None if found is None else floats(found) for place, found in kept.items()}

    def advantage(row: int) -> dict[str, Any] | None:
        own = values[row, row]
        others = [other for column in columns if column != row and (other := values[row, column]) is not None]
        if own is None or len(others) < len(columns) - 1:
            return None
        return mean_and_interval(own - np.mean(others, axis=0), groups[row])

    def mean_of(place: tuple[int, int]) -> float | None:
        return None if (own := values[place]) is None else mean(own)

    return {
        "matrix": [[mean_of((row, column)) for column in columns] for row in groups],
        "advantage": [advantage(row) for row in groups],
        "of_each_clip": [[kept[row, column] for column in columns] for row in groups],
    }


def _draw(path: Path, document: dict[str, Any], classifier: str) -> None:
    matrices = [
        Matrix(f"ΔAUPC {said}", document["scores"][name]["matrix"], document["rows"], document["columns"])
        for name, said in COLUMNS.items()
    ]
    draw_matrices(
        path,
        matrices,
        title=f"{classifier}: what parts gain over the whole map, by whose subspaces (higher is better)",
        row_axis="clips of, and relevance for",
        column_axis="subspaces of",
    )
