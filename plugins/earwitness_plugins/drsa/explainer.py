"""Disentangled relevant subspace analysis as a fitted explainer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Self, get_args

import torch
from torch import Tensor

from earwitness.batching import iterate, plan_chunks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.errors import CheckpointError, ConfigurationError, ExplanationError, nearest
from earwitness.explanation import Domain, Explanation, Parts, Relevance
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness.random import Random, stream_seed
from earwitness_plugins.drsa.attribution import PartsAttribution, attribute_in_parts, pieces
from earwitness_plugins.drsa.baselines import Kind, choose_subspaces
from earwitness_plugins.drsa.fitted import Checkpoint, ClassSubspaces, FittedSubspaces
from earwitness_plugins.drsa.layers import choose_layer
from earwitness_plugins.drsa.objective import Vectors, block_sizes
from earwitness_plugins.drsa.sampling import Evidence, collect
from earwitness_plugins.drsa.subspaces import Method
from earwitness_plugins.lrp.composites import DEFAULT
from earwitness_plugins.lrp.explainer import conservation_gap, is_unstable
from earwitness_plugins.lrp.propagation import Propagation

_CLIPS_AT_ONCE = 16
_REPORT_EVERY = 25


class DRSA:
    """The decision's relevance, taken apart at a hidden layer into subspaces that are relevant at different times.

    Subspaces are fitted to each class of the training data of which the classifier recognises at least one clip.

    Parameters
    ----------
    layer : str, optional
        Dotted name of a layer behind a ReLU. Default: the middle one of those with a map over time and frequency, or
        the nearest to it at which the parts sum to the whole.
    k : int
        Subspaces, at most as many as the layer has channels. Where it does not divide them, the first blocks have one
        channel more.
    subspaces : {"drsa", "dsa", "prca", "pca", "random"}
        See :mod:`earwitness_plugins.drsa.baselines`.
    method : {"adaptive", "paper"}
        Steps that adapt, until nothing more is gained; or 5000 steps of 1.
    restarts : int
    locations : int
        Places that are looked at in each training clip.
    composite : str or dict
        The rules of LRP; see :mod:`earwitness_plugins.lrp.composites`.

    Raises
    ------
    ConfigurationError
        A parameter is not valid.

    Notes
    -----
    The relevance is LRP's standard map. Parts are named ``subspace 1`` to ``subspace K``, by falling mean relevance on
    the training data, the same for every clip of a class; their weights are their relevance at the layer.

    Diagnostics: those of LRP, and ``parts_gap``: the largest |sum of the parts' maps - map|, relative to the map's
    largest |value|. It is rounding (below 1e-5) unless signals pass the layer by, as in a block of a residual network,
    or the rule of the layer above looks at weights alone, as ``wsquare`` does.
    """

    def __init__(
        self,
        *,
        layer: str | None = None,
        k: int = 4,
        subspaces: Kind = "drsa",
        method: Method = "adaptive",
        restarts: int = 3,
        locations: int = 32,
        composite: str | Mapping[str, object] = DEFAULT,
    ) -> None:
        _check_numbers(k=k, restarts=restarts, locations=locations)
        _check_choice("subspaces", subspaces, get_args(Kind))
        _check_choice("method", method, get_args(Method))
        if layer is not None and (not isinstance(layer, str) or not layer):
            raise ConfigurationError(f"layer must be the dotted name of a layer, or left out; got {layer!r}.")
        self.layer = layer
        self.k = k
        self.subspaces: Kind = subspaces
        self.method: Method = method
        self.restarts = restarts
        self.locations = locations
        self.propagation = Propagation(composite)
        self._fitted: FittedSubspaces | None = None

    @property
    def fitted(self) -> FittedSubspaces:
        """The subspaces of each class.

        Raises
        ------
        ExplanationError
            There are none yet.
        """
        if self._fitted is None:
            raise ExplanationError(
                "drsa must be fitted first: earwitness fit drsa --classifier … --dataset … --out FOLDER, then "
                "--checkpoint FOLDER."
            )
        return self._fitted

    def fit(
        self,
        classifier: AudioClassifier,
        train: Dataset,
        *,
        validation: Dataset | None,
        random: int,
        workspace: Workspace,
        progress: Progress,
    ) -> None:
        """Collect vectors, then fit the subspaces of one class after the other. There is nothing to validate.

        Raises
        ------
        ClassifierError, ConfigurationError
            The layer is not fit for it (see :func:`~earwitness_plugins.drsa.layers.choose_layer`), no training clip is
            recognised, K exceeds the layer's channels, or a class has fewer vectors than the layer has channels, or
            only dead ones.
        NotApplicableError
            LRP has no rule for something in the network.
        """
        n_chunks = len(plan_chunks(train.entries, _CLIPS_AT_ONCE))
        present = {label for entry in train.entries for label in entry.labels} & set(classifier.labels)
        layer = self._chosen_layer(classifier, train)
        state = Checkpoint.of(workspace, layer, n_classes=len(classifier.labels))
        for number, batch in iterate(
            train, classifier.rate, _CLIPS_AT_ONCE, start=state.chunk, device=classifier.device
        ):
            state.evidence += collect(
                self.propagation, classifier, batch, layer=layer, locations=self.locations, seed=random
            )
            state.chunk = number + 1
            if number % 8 == 7 or state.chunk == n_chunks:
                state.save()
            progress(state.chunk, n_chunks + len(present), "collecting evidence")
        recognised = state.evidence.clips.nonzero().flatten().tolist()
        if not recognised:
            raise ConfigurationError(
                f"{classifier.name} recognises none of the {len(train)} training clips: there is no decision to fit "
                f"to. Their labels are {', '.join(sorted(present))}."
            )
        for position, index in enumerate(recognised, start=n_chunks):
            if index not in state.classes:
                report = functools.partial(progress, position, n_chunks + len(recognised))
                state.classes[index] = self._fit_class(classifier, index, state.evidence, seed=random, report=report)
                state.save()
            progress(position + 1, n_chunks + len(recognised), f"{classifier.labels[index]} fitted")
        self._fitted = FittedSubspaces(layer, state.classes)

    def _chosen_layer(self, classifier: AudioClassifier, train: Dataset) -> str:
        first = train[0].resampled(classifier.rate)
        with torch.no_grad():
            features = classifier.features(Batch.of([first], device=classifier.device).waveforms)
        return choose_layer(self.propagation, classifier, features, self.layer)

    def _fit_class(
        self, classifier: AudioClassifier, index: int, evidence: Evidence, *, seed: int, report: Callable[[str], None]
    ) -> ClassSubspaces:
        label = classifier.labels[index]
        activations, contexts = (values.to(classifier.device) for values in evidence.of_class(index))
        try:
            vectors = Vectors.normalised(activations, contexts)
            sizes = block_sizes(vectors.dimensions, self.k)
        except ConfigurationError as error:
            raise ConfigurationError(f"drsa cannot be fitted to {label!r}: {error}") from None

        def say(step: int, objective: float) -> None:
            if step % _REPORT_EVERY == 0:
                report(f"{label}: step {step}, objective {objective:.4f}")

        found = choose_subspaces(
            self.subspaces,
            vectors,
            sizes,
            generator=torch.Generator().manual_seed(stream_seed(seed, "drsa-starts", label)),
            restarts=self.restarts,
            method=self.method,
            report=say,
        )
        subspaces, mean = found.subspaces.ordered(vectors)
        dead = vectors.n_rows - len(vectors.activations)
        n_clips = int(evidence.clips[index])
        return ClassSubspaces(subspaces, mean.cpu(), found.objective, found.curves, n_clips, vectors.n_rows, dead)

    def state(self) -> Mapping[str, Tensor]:
        """See :meth:`FittedSubspaces.tensors`; objective curves included."""
        if self._fitted is None:
            raise CheckpointError("drsa has not been fitted.")
        return self._fitted.tensors()

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take up fitted subspaces.

        Raises
        ------
        CheckpointError
            They are of another layer, or of another number of parts, than this explainer was asked for.
        """
        fitted = FittedSubspaces.of_tensors(state)
        if self.layer not in (None, fitted.layer):
            raise CheckpointError(
                f"These subspaces were fitted at layer {fitted.layer!r}, not at {self.layer!r}. Fit again."
            )
        if fitted.k != self.k:
            raise CheckpointError(f"These are {fitted.k} subspaces a class, not {self.k}. Fit again.")
        self._fitted = fitted
        return self

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        ExplanationError
            It has not been fitted.
        NotApplicableError
            The classifier recognised no training clip of a target, or LRP has no rule for something in the network.
        ClassifierError, CheckpointError
            The classifier does not have the layer, or another number of channels there.
        """
        bases, members = self.fitted.of_rows(target, classifier.labels)
        with torch.no_grad():
            features = classifier.features(batch.waveforms)
        found = [
            attribute_in_parts(
                self.propagation,
                classifier,
                features[rows],
                target[rows],
                layer=self.fitted.layer,
                bases=bases[rows],
                members=members[rows],
            )
            for rows in pieces(classifier, features)
        ]
        on_a_grid = classifier.feature_grid(batch.waveforms.shape[1]) is not None
        return _explanation(target, PartsAttribution.joined(found), "features" if on_a_grid else "waveform")


def _explanation(target: Tensor, found: PartsAttribution, domain: Domain) -> Explanation:
    whole = found.relevance[:, 0].float()
    maps = [Relevance(part[:, 0].float(), domain) for part in found.parts]
    missing = (sum(part.double() for part in found.parts) - found.relevance.double()).abs().flatten(1).amax(1)
    largest = found.relevance.double().abs().flatten(1).amax(1).clamp(min=torch.finfo(torch.float32).tiny)
    return Explanation(
        target,
        relevance=Relevance(whole, domain),
        parts=Parts(
            names=tuple(f"subspace {number + 1}" for number in range(len(maps))),
            weights=found.weights.float(),
            selected=torch.ones(found.weights.shape, dtype=torch.bool, device=found.weights.device),
            map=maps.__getitem__,
        ),
        diagnostics={
            "conservation_gap": conservation_gap(found.relevance, found.explained).float(),
            "unstable": is_unstable(found.relevance, found.explained).float(),
            "parts_gap": (missing / largest).float(),
        },
    )


def _check_numbers(**numbers: object) -> None:
    wrong = {name: n for name, n in numbers.items() if isinstance(n, bool) or not isinstance(n, int) or n < 1}
    if wrong:
        raise ConfigurationError(f"Expected whole numbers of 1 or more, got {wrong}.")


def _check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ConfigurationError(f"There is no {name} {given!r}. {nearest(str(given), choices)}")
