"""Does a method that decides on its own decide as the classifier does, and do its reasons tell the classes apart?

For fitted explainers with ``surrogate_logits`` and parts, such as L2I. *Fidelity* is agreement with the classifier's
decisions, never with the labels. Of a classifier of one class a clip: is its decision among the surrogate's first 1, 3
and 5? Of a multilabel one: how well does the surrogate rank, for each class, the clips for which the classifier decides
for it (p > 0.5), as the area under the precision-recall curve and as the best F1; *macro* is the mean over classes,
*micro* takes all pairs of clip and class at once.

The figure lays out the clips by the relevances of their parts, in two dimensions by t-SNE, coloured by decision: clips
that are decided alike for like reasons lie together.

Source: Parekh et al., "Listen to Interpret", NeurIPS 2022, section 4.1 and appendix (fidelity; figure of relevances).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earwitness.artifacts import write_json
from earwitness.batching import load_batch, plan_chunks
from earwitness.errors import ConfigurationError, EarwitnessError
from earwitness.fitting import fitted_identity
from earwitness.loading import load_explainer
from earwitness.protocols import Explainer, Progress
from earwitness_bench.metrics import fidelity_formulas, formulas
from earwitness_bench.statistics import bootstrap
from earwitness_bench.store import Store
from earwitness_bench.studies.cells import Cell, Ran, run_cells
from earwitness_bench.studies.figures import draw_scatter
from earwitness_bench.studies.material import Material
from earwitness_bench.studies.summaries import Floats
from earwitness_bench.tabulation import json_number

NAME = "surrogate"
PERPLEXITY = 30.0
"""Of t-SNE; less where there are fewer than about a hundred clips."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What classifier and surrogate say of n clips.

    Attributes
    ----------
    probabilities, surrogate : Tensor (n, C), float64
        The classifier's probabilities, and the surrogate's logits.
    relevance : Tensor (n, K), float64
        Of each part for the classifier's most probable class.
    groups : tuple of str, length n
        Source recordings.
    multilabel : bool
    """

    probabilities: Tensor
    surrogate: Tensor
    relevance: Tensor
    groups: tuple[str, ...]
    multilabel: bool

    def fidelity(self) -> dict[str, dict[str, Any]]:
        """Each number with its 95 % interval, which resamples source recordings."""
        return {name: self._with_interval(formula) for name, formula in self._formulas().items()}

    def _formulas(self) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        if self.multilabel:
            return {
                f"{average}_{name}": partial(_of_decisions, average_of, formula)
                for average, average_of in (("macro", fidelity_formulas.macro), ("micro", fidelity_formulas.micro))
                for name, formula in (
                    ("AUPRC", fidelity_formulas.average_precision),
                    ("max_F1", fidelity_formulas.max_f1),
                )
            }
        n_classes = self.surrogate.shape[1]
        return {f"top-{k}": partial(_top_k, k) for k in (1, 3, 5) if k < n_classes}

    def _with_interval(self, formula: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        n_classes = self.surrogate.shape[1]

        def of_rows(rows: Floats) -> float:
            both = torch.from_numpy(rows)
            return float(formula(both[:, :n_classes], both[:, n_classes:]))

        rows = torch.cat([self.surrogate, self.probabilities], 1).numpy()
        low, high = bootstrap(rows, self.groups, of_rows).interval()
        return {"value": json_number(of_rows(rows)), "interval": [json_number(low), json_number(high)]}


@dataclass(frozen=True)
class Design:
    """Who is asked.

    Attributes
    ----------
    explainer : str
        One that decides on its own, such as ``l2i``.
    checkpoint : Path
        Folder of its fit.
    seed : int
    chunk_size : int
        Clips at once.
    """

    explainer: str
    checkpoint: Path
    seed: int
    chunk_size: int


def run_surrogate(design: Design, out: Path, *, material: Material, progress: Progress) -> tuple[dict[str, Any], Ran]:
    """Ask classifier and surrogate; write ``surrogate.json``, ``.png`` and ``.svg``.

    Parameters
    ----------
    design : Design
    out : Path
        Results folder, see :mod:`earwitness_bench.store`.
    material : Material
        Its classifier is the one that the explainer was fitted to.
    progress : callable (done, total, text)

    Returns
    -------
    document : dict
        What the JSON file holds.
    ran : Ran

    Raises
    ------
    CheckpointError
        The folder holds no fit, or one to another classifier.
    ConfigurationError
        The method does not decide on its own.
    EarwitnessError
        No clip could be explained.
    """
    dataset, classifier = material.dataset, material.classifier
    fitted = load_explainer(
        design.explainer, checkpoint=design.checkpoint, classifier=classifier, plugins=material.registry
    )
    common = {
        **material.identity(design.explainer),
        "fit": fitted_identity(design.checkpoint),
        "seed": design.seed,
    }
    store = Store(out, create=True)
    chunks = plan_chunks(dataset.entries, design.chunk_size)
    cells = [
        Cell(
            f"clips {number + 1} of {len(chunks)}",
            {**common, "clips": material.identity_of_clips(chunk)},
            partial(_ask, fitted, material, chunk, design.seed),
        )
        for number, chunk in enumerate(chunks)
    ]
    ran = run_cells(store, NAME, cells, progress)
    answered = [(chunk, found) for chunk, found in zip(chunks, ran.results, strict=True) if found is not None]
    if not answered:
        raise EarwitnessError(f"No clip could be explained: {ran.failed[0]}")

    def joined(name: str) -> Tensor:
        return torch.tensor([row for _, found in answered for row in found[name]], dtype=torch.float64)

    answers = Answers(
        joined("probabilities"),
        joined("surrogate"),
        joined("relevance"),
        groups=tuple(dataset.entries[i].group for chunk, _ in answered for i in chunk),
        multilabel=classifier.multilabel,
    )
    decided = answers.probabilities.argmax(1)
    places = embed(answers.relevance.numpy(), design.seed)
    document: dict[str, Any] = {
        "study": NAME,
        "settings": common,
        "clips": len(answers.groups),
        "recordings": len(set(answers.groups)),
        "multilabel": classifier.multilabel,
        "fidelity": answers.fidelity(),
        "map": {
            "clips": [dataset.entries[i].clip_id for chunk, _ in answered for i in chunk],
            "decided": [classifier.labels[int(i)] for i in decided],
            "places": places.tolist(),
        },
    }
    write_json(out / f"{NAME}.json", document)
    title = (
        f"{design.explainer} on {classifier.name}: {len(answers.groups)} clips by the relevance of their parts (t-SNE)"
    )
    draw_scatter(out / NAME, places, document["map"]["decided"], title=title)
    return document, ran


def embed(relevance: Floats, seed: int) -> Floats:
    """Places (n, 2) of vectors (n, K), by t-SNE (van der Maaten and Hinton, JMLR 2008); by their first two
    coordinates where there are fewer than five."""
    if len(relevance) < 5:
        return np.pad(relevance, ((0, 0), (0, 2)))[:, :2]
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(relevance) - 1) / 3)
    places: Floats = TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(relevance)
    return places.astype(np.float64)


def _ask(fitted: Explainer, material: Material, chunk: Sequence[int], seed: int) -> dict[str, Any]:
    batch = load_batch(material.dataset, chunk, material.classifier.rate, device=material.classifier.device)
    probabilities = material.classifier.probabilities(batch.waveforms)
    found = material.explained(fitted, batch, probabilities.argmax(1), study=NAME, seed=seed).explanation
    if found.surrogate_logits is None or found.parts is None:
        raise ConfigurationError("This method does not decide on its own, or has no parts. Use one that does: l2i.")
    tensors = {
        "probabilities": probabilities,
        "surrogate": found.surrogate_logits,
        "relevance": found.parts.weights,
    }
    return {name: tensor.detach().cpu().double().tolist() for name, tensor in tensors.items()}


def _top_k(k: int, surrogate: Tensor, probabilities: Tensor) -> Tensor:
    return formulas.top_k_fidelity(surrogate, probabilities.argmax(1), k).double().mean()


def _of_decisions(
    average_of: Callable[..., Tensor],
    formula: Callable[[Tensor, Tensor], Tensor],
    surrogate: Tensor,
    probabilities: Tensor,
) -> Tensor:
    return average_of(formula, surrogate, probabilities > 0.5)
