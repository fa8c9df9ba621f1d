"""What a metric may ask: everything computed once and shared by all metrics of a batch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from earwitness.audio.rules import Normalise, Rule
from earwitness.audio.stft import ListeningSTFT
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation, Route, Scale
from earwitness.random import Random
from earwitness.render import Rendering, Scene, render


class ExplainAgain(Protocol):
    """The method that made an explanation, at work again; see :meth:`Context.explain`."""

    def __call__(
        self, classifier: AudioClassifier, batch: Batch, *, target: Tensor | None, rows: Sequence[int] | None
    ) -> Explanation: ...


class Context:
    """The circumstances of an explanation.

    Parameters
    ----------
    classifier : AudioClassifier
    batch : Batch
    explanation : Explanation
    random : Random
    listening : ListeningSTFT, optional
        Default: the classifier's.
    rule, scale, route
        How the explanation becomes a mask and reaches the classifier.
    explain : callable, optional
        The same method again, on another batch or another classifier.
    scene : Scene, optional
        The batch already analysed (shared by the explanations of several methods).
    """

    def __init__(
        self,
        classifier: AudioClassifier,
        batch: Batch,
        explanation: Explanation,
        *,
        random: Random,
        listening: ListeningSTFT | None = None,
        rule: Rule | None = None,
        scale: Scale = "magnitude",
        route: Route = "waveform",
        explain: ExplainAgain | None = None,
        scene: Scene | None = None,
    ) -> None:
        self.classifier = classifier
        self.batch = batch
        self.explanation = explanation
        self.random = random
        self.rule = rule or Normalise()
        self.scale: Scale = scale
        self.scene = scene or Scene(classifier, batch, listening or classifier.listening, route)
        self._explain = explain

    @property
    def target(self) -> Tensor:
        """The explained class of each row: Tensor (B,), int64."""
        return self.explanation.target

    @property
    def target_labels(self) -> tuple[str, ...]:
        """The explained class of each row, by name."""
        return tuple(self.classifier.labels[index] for index in self.target.tolist())

    @functools.cached_property
    def rendering(self) -> Rendering:
        """The explanation at its own mask (or under the run's rule)."""
        return render(self.scene, self.explanation, self.rule, self.scale)

    @functools.cached_property
    def importance(self) -> Tensor:
        """Tensor (B, F, N), in [0, 1]: see ``Scene.importance``."""
        return self.scene.importance(self.explanation)

    @property
    def original(self) -> Tensor:
        """Probabilities (B, C) of the recording, on the run's route."""
        return self.scene.original

    @property
    def heard(self) -> Tensor:
        """Probabilities (B, C) of what is heard."""
        return self._answers[0]

    @property
    def rest(self) -> Tensor:
        """Probabilities (B, C) of what is left."""
        return self._answers[1]

    @property
    def p_original(self) -> Tensor:
        """Probability (B,) of the target in the recording."""
        return self.of_target(self.original)

    @property
    def p_heard(self) -> Tensor:
        """Probability (B,) of the target in what is heard."""
        return self.of_target(self.heard)

    @property
    def p_rest(self) -> Tensor:
        """Probability (B,) of the target in what is left."""
        return self.of_target(self.rest)

    def of_target(self, values: Tensor) -> Tensor:
        """Pick the target's column of (B, C): Tensor (B,)."""
        return values.gather(1, self.target[:, None])[:, 0]

    def explain(
        self,
        batch: Batch,
        classifier: AudioClassifier | None = None,
        *,
        target: Tensor | None = None,
        rows: Sequence[int] | None = None,
    ) -> Explanation:
        """The same method again.

        Parameters
        ----------
        batch : Batch
            Recordings in place of the context's own, such as disturbed ones.
        classifier : AudioClassifier, optional
            Another one, such as one with randomised weights. Default: the context's.
        target : Tensor (R,), int64, optional
            Other classes. Default: those that were explained.
        rows : sequence of int, length R, optional
            Which rows of the context's batch those of ``batch`` stand for. Default: all, in their order.

        Raises
        ------
        ExplanationError
            ``batch``, ``target`` and ``rows`` have not the same length.
        RuntimeError
            The context was made without a way to explain again.
        """
        if self._explain is None:
            raise RuntimeError("This context was made without a way to explain again.")
        wanted = len(self.batch) if rows is None else len(rows)
        if len(batch) != wanted or (target is not None and len(target) != wanted):
            raise ExplanationError(
                f"Explaining again {wanted} rows of the batch needs as many recordings and classes, got {len(batch)} "
                f"and {len(batch) if target is None else len(target)}. Say by `rows` which rows they stand for."
            )
        return self._explain(classifier or self.classifier, batch, target=target, rows=rows)

    @functools.cached_property
    def _answers(self) -> tuple[Tensor, Tensor]:
        rendering, scene = self.rendering, self.scene
        if scene.route == "waveform":
            return scene.answers(rendering.heard, rendering.rest)
        return scene.probabilities(rendering.gain), scene.probabilities(rendering.rest_gain)
