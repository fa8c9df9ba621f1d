"""Listen to Interpret as a fitted explainer (Parekh et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, get_args

import torch
from torch import Tensor

from earwitness.audio.stft import ListeningSTFT
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.errors import CheckpointError, ConfigurationError, ExplanationError, nearest
from earwitness.explanation import SCALES, Explanation, Mask, Parts, Scale
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness.random import Random
from earwitness_plugins.hidden_maps import hidden_maps
from earwitness_plugins.l2i.fitted import FittedInterpreter
from earwitness_plugins.l2i.fitting import Plan, check_layers, fit_interpreter
from earwitness_plugins.l2i.losses import LossWeights, Schedule
from earwitness_plugins.l2i.relevance import SoftMasks, relevance
from earwitness_plugins.l2i.theta import Pooling
from earwitness_plugins.l2i.training import Recipe


class L2I:
    """The decision in terms of spectral patterns: an interpreter predicts, from hidden maps, when each pattern of a
    dictionary sounds, and from that the decision.

    The recipe is one that reaches a high fidelity on a few hundred clips; :func:`l2i_paper` has the published one.

    Parameters
    ----------
    layers : sequence of three str, optional
        Dotted names of layers. Default: the last maps of the last three convolutional blocks.
    patterns : int
        K, of the dictionary.
    dictionary : str, optional
        Folder of a dictionary. Default: one is learnt from the training data, by sparse non-negative matrix
        factorisation.
    pooling : {"max", "attention"}
        Of the activations over time. Attention selects fewer patterns; the maximum decides more like the classifier.
    threshold : float, in [0, 1)
        τ: patterns of a relevance above it make up the explanation.
    scale : {"log1p", "magnitude"}
        What a mask multiplies: log(1 + |S|), as published, or |S|.
    width : int
        Channels inside the interpreter, even.
    epochs, batch_size, learning_rate
        Of Adam.
    alpha, beta : float
        Weights of reconstruction and sparsity.
    schedule : {"constant", "code"}
        Of the weight of fidelity; see :class:`~earwitness_plugins.l2i.losses.LossWeights`.
    memory_mb : float
        What the fit may keep of hidden maps and spectrograms; what does not fit is computed in each epoch.

    Raises
    ------
    ConfigurationError
        A parameter is not valid.

    Notes
    -----
    Parts are named ``pattern 1`` to ``pattern K``; their weights are the relevances r in [-1, 1], and the selected
    ones are those above τ. A clip of which no pattern is above τ has an empty explanation: a mask of zeros.

    Diagnostics: ``selected``, how many patterns are above τ; ``reconstruction``, the mean squared error of WH against
    log(1 + |S|), over the mean of the latter's square: 0 is perfect, 1 is as bad as silence.
    """

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        patterns: int = 100,
        dictionary: str | None = None,
        pooling: Pooling = "max",
        threshold: float = 0.2,
        scale: Scale = "log1p",
        width: int = 64,
        epochs: int = 30,
        batch_size: int = 8,
        learning_rate: float = 1e-3,
        alpha: float = 10.0,
        beta: float = 0.8,
        schedule: Schedule = "constant",
        memory_mb: float = 2000.0,
    ) -> None:
        _check_numbers(patterns=patterns, width=width, epochs=epochs, batch_size=batch_size)
        _check_positive(learning_rate=learning_rate, alpha=alpha, beta=beta, memory_mb=memory_mb)
        for name, given, choices in (
            ("pooling", pooling, get_args(Pooling)),
            ("scale", scale, SCALES),
            ("schedule", schedule, get_args(Schedule)),
        ):
            if given not in choices:
                raise ConfigurationError(f"There is no {name} {given!r}. {nearest(str(given), choices)}")
        if width % 2:
            raise ConfigurationError(f"width must be even, got {width}.")
        if not 0 <= threshold < 1:
            raise ConfigurationError(f"threshold must lie in [0, 1), got {threshold}: relevances are at most 1.")
        self.threshold = threshold
        self.scale: Scale = scale
        self.plan = Plan(
            layers=check_layers(layers),
            n_patterns=patterns,
            dictionary=None if dictionary is None else Path(dictionary),
            pooling=pooling,
            width=width,
            recipe=Recipe(epochs, batch_size, learning_rate, LossWeights(alpha, beta, schedule)),
            memory_mb=memory_mb,
        )
        self._fitted: FittedInterpreter | None = None

    @property
    def n_parameters(self) -> int | None:
        """Of interpreter and dictionary; None before they are fitted."""
        if self._fitted is None:
            return None
        return self._fitted.patterns.numel() + sum(p.numel() for p in self._fitted.interpreter.parameters())

    @property
    def fitted(self) -> FittedInterpreter:
        """The interpreter.

        Raises
        ------
        ExplanationError
            There is none yet.
        """
        if self._fitted is None:
            raise ExplanationError(
                "l2i must be fitted first: earwitness fit l2i --classifier … --dataset … --out FOLDER, then "
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
        """Choose the layers, learn the dictionary, and train the interpreter; the validation data choose the epoch.

        Raises
        ------
        NotApplicableError
            The classifier has no three maps to look at.
        ConfigurationError
            The dictionary is of another STFT, or of another number of patterns; there are fewer frames than patterns;
            or the training diverged.
        """
        self._fitted = fit_interpreter(
            self.plan, classifier, train, validation, seed=random, workspace=workspace, progress=progress
        )

    def state(self) -> Mapping[str, Tensor]:
        """See :meth:`FittedInterpreter.tensors`; curves of the losses included."""
        if self._fitted is None:
            raise CheckpointError("l2i has not been fitted.")
        return self._fitted.tensors()

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take up a fitted interpreter.

        Raises
        ------
        CheckpointError
            It has other layers, patterns, pooling or width than this explainer was asked for.
        """
        fitted = FittedInterpreter.of_tensors(state)
        plan, sizes = self.plan, fitted.sizes
        layers = None if plan.layers is None else set(plan.layers)
        wanted = {"patterns": plan.n_patterns, "pooling": plan.pooling, "width": plan.width, "layers": layers}
        own: dict[str, object] = {"patterns": sizes.n_patterns, "pooling": sizes.pooling, "width": sizes.width}
        own["layers"] = layers and set(fitted.layers)
        if own != wanted:
            raise CheckpointError(f"This interpreter was fitted with {own}, not with {wanted}. Fit again.")
        self._fitted = fitted
        return self

    @torch.no_grad()
    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        ExplanationError
            It has not been fitted.
        CheckpointError
            It was fitted to a classifier of another listening STFT, or with other layers or classes.
        """
        fitted = self.fitted
        interpreter, patterns = fitted.to(classifier.device)
        spectrogram = torch.log1p(_listening(classifier, fitted).forward(batch.waveforms).abs())
        found = interpreter(_hidden_maps(classifier, batch, fitted), spectrogram.shape[2])
        r = relevance(found.pooled * interpreter.theta.linear.weight[target])
        masks, selected = SoftMasks(patterns, found.activations), r > self.threshold
        missing = (spectrogram - patterns @ found.activations).square().mean((1, 2))
        return Explanation(
            target,
            mask=Mask(masks.of(selected), "stft", self.scale),
            parts=Parts(
                names=tuple(f"pattern {number + 1}" for number in range(patterns.shape[1])),
                weights=r,
                selected=selected,
                map=lambda number: Mask(masks.of_pattern(number), "stft", self.scale),
            ),
            surrogate_logits=found.logits,
            diagnostics={
                "selected": selected.sum(1).float(),
                "reconstruction": missing / spectrogram.square().mean((1, 2)).clamp_min(_NO_SOUND),
            },
        )


_NO_SOUND = 1e-12
"""Mean square of a log1p spectrogram in which there is nothing to reconstruct."""


def _listening(classifier: AudioClassifier, fitted: FittedInterpreter) -> ListeningSTFT:
    """The listening STFT, once it is known to be that of the patterns."""
    if classifier.listening != fitted.listening:
        raise CheckpointError(
            f"This interpreter's patterns are of {fitted.listening}, but {classifier.name} listens with "
            f"{classifier.listening}. Fit again."
        )
    return classifier.listening


def _hidden_maps(classifier: AudioClassifier, batch: Batch, fitted: FittedInterpreter) -> tuple[Tensor, ...]:
    """What the classifier has in the interpreter's layers, once it is known to be what it was fitted to."""
    maps = hidden_maps(classifier, classifier.features(batch.waveforms), fitted.layers).maps
    channels, n_classes = tuple(values.shape[1] for values in maps), len(classifier.labels)
    if (channels, n_classes) != (fitted.sizes.channels, fitted.sizes.n_classes):
        raise CheckpointError(
            f"This interpreter was fitted to {fitted.sizes.n_classes} classes and hidden maps of "
            f"{fitted.sizes.channels} channels; {classifier.name} has {n_classes} and {channels}. Fit again."
        )
    return maps


def l2i_paper(
    *,
    layers: Sequence[str] | None = None,
    patterns: int = 100,
    dictionary: str | None = None,
    pooling: Pooling = "attention",
    threshold: float = 0.2,
    schedule: Schedule = "constant",
    epochs: int = 35,
    learning_rate: float = 2e-4,
) -> L2I:
    """As published for ESC-50: Ψ of 256 channels, batches of 32, Adam at 2e-4 for 35 epochs, masks at log1p scale.

    For multilabel data the paper has 80 patterns, 21 epochs and a learning rate of 5e-4. See :class:`L2I`.
    """
    return L2I(
        layers=layers,
        patterns=patterns,
        dictionary=dictionary,
        pooling=pooling,
        threshold=threshold,
        width=256,
        epochs=epochs,
        batch_size=32,
        learning_rate=learning_rate,
        schedule=schedule,
    )


def _check_numbers(**numbers: object) -> None:
    wrong = {name: n for name, n in numbers.items() if isinstance(n, bool) or not isinstance(n, int) or n < 1}
    if wrong:
        raise ConfigurationError(f"Expected whole numbers of 1 or more, got {wrong}.")


def _check_positive(**numbers: float) -> None:
    wrong = {name: n for name, n in numbers.items() if not n >= 0 or (name == "learning_rate" and n == 0)}
    if wrong:
        raise ConfigurationError(f"Expected numbers of 0 or more, and a learning rate above 0; got {wrong}.")
