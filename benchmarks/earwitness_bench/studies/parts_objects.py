"""Which part is which object? Subspaces of one class, fitted several times, over many clips that hold all its objects.

The *share* of a part on an object is the part of its positive relevance that lies in the object's ideal mask
(:mod:`earwitness_bench.metrics.parts`). Objects are not equally loud, nor equally important to the classifier: a part
of a map that looks at one object only will have most of its relevance there too. So a part is held against the whole
map: its *enrichment* in an object is its share there over the whole map's, 1 if nothing was gained by taking the map
apart. Parts and objects are matched one to one by the logarithm of enrichment, once for each fit, on every other clip;
everything that is reported is measured on the clips in between. There, an object is *found* if its part is richer in
it than in any other object, and richer than the whole map (the 95 % interval of share less whole share is above 0).

``matched_share`` is the share of the matched part, averaged over objects, as in the metric ``parts-objects``, but with
one match for all clips: a part that is this object today and that one tomorrow gains nothing.

Kinds of subspaces are compared clip by clip, over all fits together, with intervals that resample clips.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from earwitness.artifacts import digest_of, write_json
from earwitness.clips import Clip, Dataset
from earwitness.errors import ConfigurationError, EarwitnessError
from earwitness.parameters import resolved_parameters
from earwitness.protocols import Fittable, Progress
from earwitness_bench.metrics.parts import Shares, labelled_sounds, object_masks
from earwitness_bench.statistics import group_bootstrap
from earwitness_bench.store import Store
from earwitness_bench.studies.cells import Cell, Ran, run_cells
from earwitness_bench.studies.figures import Matrix, draw_matrices
from earwitness_bench.studies.material import Material
from earwitness_bench.studies.summaries import Floats

NAME = "parts-objects"


@dataclass(frozen=True)
class Design:
    """What is compared.

    Attributes
    ----------
    explainer : str
        With parts, fitted, and with the parameter ``subspaces``, such as ``drsa``.
    parameters : dict
    kinds : tuple of str
        Values of ``subspaces``; the first is held against the others.
    seeds : tuple of int
        Each kind is fitted once with each.
    chunk_size : int
    """

    explainer: str
    parameters: dict[str, Any]
    kinds: tuple[str, ...]
    seeds: tuple[int, ...]
    chunk_size: int


@dataclass(frozen=True, eq=False)
class Fit:
    """The shares of one fit on the clips of one class.

    Attributes
    ----------
    on : ndarray (n, K, O), float, in [0, 1]
    whole : ndarray (n, O), float, in [0, 1]
    """

    on: Floats
    whole: Floats

    @property
    def held_out(self) -> Fit:
        """The clips that parts were not matched on."""
        return Fit(self.on[1::2], self.whole[1::2])

    def enrichment(self) -> Floats:
        """Mean share over the whole map's: (K, O)."""
        found: Floats = self.on.mean(0) / np.maximum(self.whole.mean(0), 1e-12)
        return found

    def match(self) -> NDArray[np.int64]:
        """The part of each object, (O,), decided on every other clip; -1 for objects that no part is left for."""
        own = np.log(np.maximum(Fit(self.on[::2], self.whole[::2]).enrichment(), 1e-6))
        parts, objects = linear_sum_assignment(-own)
        matched = np.full(own.shape[1], -1, dtype=np.int64)
        matched[objects] = parts
        return matched


def run_parts_objects(
    design: Design, out: Path, *, material: Material, train: Dataset, progress: Progress
) -> tuple[dict[str, Any], Ran]:
    """Fit, explain each clip as its own class, match; write ``parts-objects.json``, ``.png`` and ``.svg``.

    Parameters
    ----------
    design : Design
    out : Path
        Results folder, see :mod:`earwitness_bench.store`.
    material : Material
        Every clip holds all objects of its class, sources known.
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
        Clips of one class do not hold the same objects, or there are fewer than four of a class.
    EarwitnessError
        A fit failed, or no clip could be explained.
    """
    store = Store(out, create=True)
    spec = material.registry.explainer(design.explainer).spec
    objects = _objects(material.dataset)
    common = {
        **material.identity(design.explainer),
        "train": digest_of([[entry.clip_id, entry.labels, entry.fingerprint] for entry in train.entries]),
        "chunk_size": design.chunk_size,
    }
    places = [(kind, seed, label) for kind in design.kinds for seed in design.seeds for label in objects]
    work = _Work(design, material, train, store.folder / "fits")
    cells = [
        Cell("{}, fit {}, {}".format(*place), {**common, **work.identity(*place)}, partial(work, *place))
        for place in places
    ]
    ran = run_cells(store, NAME, cells, progress)
    if not all(ran.results):
        raise EarwitnessError(f"{NAME} is not complete: {ran.failed[0]}")
    fits = {
        place: Fit(np.array(found["on"]), np.array(found["whole"]))
        for place, found in zip(places, ran.results, strict=True)
        if found is not None
    }
    document = {
        "study": NAME,
        "settings": {**common, "parameters": resolved_parameters(spec, design.parameters)},
        "clips": {label: len(fits[design.kinds[0], design.seeds[0], label].whole) for label in objects},
        "objects": objects,
        "fits": [
            {"kind": kind, "seed": seed, "label": label, **describe(fits[kind, seed, label], objects[label])}
            for kind, seed, label in places
        ],
        "kinds": {kind: _summary(design, fits, kind, tuple(objects)) for kind in design.kinds},
    }
    write_json(out / f"{NAME}.json", document)
    _draw(out / NAME, document, design, material.classifier.name)
    return document, ran


def describe(one: Fit, objects: tuple[str, ...]) -> dict[str, Any]:
    """Of one fit: the part of each object, its share, the whole map's, enrichment, and whether it is found."""
    matched, held_out = one.match(), one.held_out
    enrichment = held_out.enrichment()
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(objects):
        part = int(matched[number])
        if part < 0:
            rows.append({"object": name, "part": None, "found": False})
            continue
        gain = held_out.on[:, part, number] - held_out.whole[:, number]
        low, high = group_bootstrap(gain, [str(i) for i in range(len(gain))])
        rows.append(
            {
                "object": name,
                "part": part + 1,
                "share": float(held_out.on[:, part, number].mean()),
                "whole_share": float(held_out.whole[:, number].mean()),
                "enrichment": float(enrichment[part, number]),
                "share_gain": [float(gain.mean()), low, high],
                "found": bool(low > 0 and enrichment[part].argmax() == number),
            }
        )
    return {"enrichment": enrichment.tolist(), "objects": rows, "found": sum(row["found"] for row in rows)}


def matched_shares(one: Fit) -> Floats:
    """Mean share of the objects' parts for each held-out clip, (m,); 0 for objects without a part."""
    matched, held_out = one.match(), one.held_out
    own = [held_out.on[:, part, number] for number, part in enumerate(matched) if part >= 0]
    shares: Floats = np.sum(own, axis=0) / len(matched)
    return shares


def _summary(
    design: Design, fits: dict[tuple[str, int, str], Fit], kind: str, labels: tuple[str, ...]
) -> dict[str, Any]:
    """Of one kind over all fits: matched share and objects found, and what the first kind has more of it."""

    def by_clip(other: str) -> Floats:
        """Mean over fits, all classes one after the other."""
        return np.concatenate(
            [np.mean([matched_shares(fits[other, seed, label]) for seed in design.seeds], 0) for label in labels]
        )

    own = by_clip(kind)
    clips = [str(i) for i in range(len(own))]
    found = [
        describe(fits[kind, seed, label], tuple(map(str, range(fits[kind, seed, label].whole.shape[1]))))["found"]
        for seed in design.seeds
        for label in labels
    ]
    less = by_clip(design.kinds[0]) - own
    return {
        "matched_share": [float(own.mean()), *group_bootstrap(own, clips)],
        "first_less_this": [float(less.mean()), *group_bootstrap(less, clips)] if kind != design.kinds[0] else None,
        "found": {"mean": float(np.mean(found)), "of_each_fit_and_class": found},
    }


def _objects(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """The names of the objects of each class's clips, in order."""
    named: dict[str, tuple[str, ...]] = {}
    counts: dict[str, int] = {}
    for number, entry in enumerate(dataset.entries):
        label = entry.labels[0]
        names = _named(dataset[number])
        counts[label] = counts.get(label, 0) + 1
        if not names or set(named.setdefault(label, names)) != set(names):
            raise ConfigurationError(
                f"{NAME} needs clips that hold all objects of their class; {entry.clip_id} holds "
                f"{', '.join(names) or 'none that is known'}. Of `toy`, take those with objects=4."
            )
    few = [label for label, count in counts.items() if count < 4]
    if few:
        raise ConfigurationError(f"{NAME} needs at least four clips of each class; {few[0]} has {counts[few[0]]}.")
    return dict(sorted(named.items()))


@dataclass(frozen=True, eq=False)
class _Work:
    """What is done for one kind of subspaces, one fit and one class."""

    design: Design
    material: Material
    train: Dataset
    fits: Path

    def __call__(self, kind: str, seed: int, label: str) -> dict[str, Any]:
        """Fit (or find the fit), explain the class's clips as that class, and share out each part over the objects."""
        explainer, clips = self._fitted(kind, seed), self._clips(label)
        names = _named(self.material.dataset[clips[0]])
        found: dict[str, list[Any]] = {"on": [], "whole": []}
        for _, batch in self.material.batches(clips, self.design.chunk_size):
            index = self.material.classifier.target_of(label)
            target = torch.full((len(batch),), index, device=batch.waveforms.device)
            context = self.material.explained(explainer, batch, target, study=NAME, seed=seed)
            shares = Shares.of(context.explanation, context, object_masks(context, labelled_sounds(context)))
            own = [_named(clip) for clip in batch.clips]
            order = torch.tensor([[held.index(name) for name in names] for held in own], device=shares.on.device)
            found["on"] += shares.on.gather(2, order[:, None].expand(-1, shares.on.shape[1], -1)).tolist()
            found["whole"] += shares.whole.gather(1, order).tolist()
        return found

    def identity(self, kind: str, seed: int, label: str) -> dict[str, Any]:
        """All that can change the numbers of this piece and is not the same for all of them."""
        spec = self.material.registry.explainer(self.design.explainer).spec
        return {
            "parameters": resolved_parameters(spec, self._parameters(kind)),
            "seed": seed,
            "label": label,
            "clips": self.material.identity_of_clips(self._clips(label)),
        }

    def _parameters(self, kind: str) -> dict[str, Any]:
        return {**self.design.parameters, "subspaces": kind}

    def _clips(self, label: str) -> list[int]:
        return [number for number, entry in enumerate(self.material.dataset.entries) if entry.labels[0] == label]

    def _fitted(self, kind: str, seed: int) -> Fittable:
        parameters, prints = self._parameters(kind), [entry.fingerprint for entry in self.train.entries]
        identity = [parameters, seed, self.material.classifier.checksum, prints]
        folder = self.fits / f"{self.design.explainer}-{digest_of(identity)[:16]}"
        return self.material.fitted(self.design.explainer, self.train, folder, parameters=parameters, seed=seed)


def _named(clip: Clip) -> tuple[str, ...]:
    """The sources of a clip that are objects."""
    return tuple(name for name, source in clip.sources.items() if source.label)


def _draw(path: Path, document: dict[str, Any], design: Design, classifier: str) -> None:
    """The first fit of the first kind: enrichment of each part in each object, on a logarithmic scale around 1."""
    matrices = [
        Matrix(
            f"{shown['label']}: log2 enrichment ({shown['found']} of {len(shown['objects'])} found)",
            np.log2(np.maximum(shown["enrichment"], 1e-6)).tolist(),
            [f"part {number + 1}" for number in range(len(shown["enrichment"]))],
            document["objects"][shown["label"]],
        )
        for shown in document["fits"]
        if shown["kind"] == design.kinds[0] and shown["seed"] == design.seeds[0]
    ]
    draw_matrices(
        path,
        matrices,
        title=f"{classifier}, {design.kinds[0]}: which part is which object (first fit, held-out clips)",
        row_axis="",
        column_axis="",
    )
