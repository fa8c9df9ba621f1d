"""Training the decoder: Adam, cosine learning rate, clipped gradients; resumable, watched, selected on validation.

Nothing random is drawn from a generator that has a state: batches, noise and budgets are functions of seed, step and
clip. So a training that goes on from its last checkpoint ends as one that was never interrupted, on a CPU to the bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.errors import ConfigurationError, ExplanationError
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness.random import Random
from earwitness_plugins.lmac.curves import COLUMNS, SCORES, Curves, Means
from earwitness_plugins.lmac.decoder import MaskDecoder
from earwitness_plugins.lmac.guidance import Guidance
from earwitness_plugins.lmac.masks import MaskKind, answer, on_stft
from earwitness_plugins.lmac.material import Material, Rows
from earwitness_plugins.lmac.objective import Objective, is_weight, total_variation
from earwitness_plugins.lmac.passages import Passage
from earwitness_plugins.lmac.swift import swift

STRETCH = 50
"""Steps between two rows of the training curve."""
LOOK = 250
"""Steps between two looks at validation, with a checkpoint each; a multiple of ``STRETCH``."""
BUDGETS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of energy at which a decoder trained for budgets is validated; it is trained between the outer ones."""

_CLIP = 1.0
_ROWS_ASKED = 8  # at once, on a CPU: what lies between then stays in its cache
_RISE = 1e-4  # of a probability, from which on it counts as an increase


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a decoder is trained.

    Attributes
    ----------
    steps, finetune_steps : int
        Of the masking objective alone, and then with guidance.
    batch_size : int
    learning_rate : float
        Of Adam at the beginning of each of the two stages; it falls to 0 along half a cosine.
    budget_share : float, in [0, 1]
        Share of rows whose mask is warped to a random share of the energy before it is judged.
    mean_mask : float, in (0, 1), optional
        What masks should keep: after each stretch of steps, λ_s is multiplied by the root of what they kept over this.
        ``None``: λ_s is what it is.
    """

    steps: int
    finetune_steps: int = 0
    batch_size: int = 16
    learning_rate: float = 1e-3
    budget_share: float = 0.0
    mean_mask: float | None = None

    def __post_init__(self) -> None:
        counts = (self.total, self.batch_size, self.steps + 1, self.finetune_steps + 1)
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in counts):
            raise ConfigurationError(
                f"batch_size, and steps and finetune_steps together, are whole numbers of 1 or more; got "
                f"{self.batch_size}, {self.steps} and {self.finetune_steps}."
            )
        if not all(map(is_weight, (self.learning_rate, self.budget_share))) or not (
            self.learning_rate > 0 and self.budget_share <= 1
        ):
            raise ConfigurationError(
                f"Expected learning_rate > 0 and budget_share in [0, 1], got {self.learning_rate!r} and "
                f"{self.budget_share!r}."
            )
        if self.mean_mask is not None and not (is_weight(self.mean_mask) and 0 < self.mean_mask < 1):
            raise ConfigurationError(f"mean_mask is what masks should keep, between 0 and 1; got {self.mean_mask!r}.")

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the energy, at which masks are validated: at budgets if some are trained for, NaN is their own level."""
        own = (math.nan,) if self.budget_share < 1 else ()
        return (*own, *BUDGETS) if self.budget_share else own

    @property
    def total(self) -> int:
        """All steps."""
        return self.steps + self.finetune_steps

    def learning_rate_at(self, step: int) -> float:
        """Of step 0, 1, … ``total`` - 1."""
        begin, length = (0, self.steps) if step < self.steps else (self.steps, self.finetune_steps)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - begin + 0.5) / length))


@dataclass(eq=False)
class Trained:
    """A decoder in training.

    Attributes
    ----------
    decoder : MaskDecoder
        As it is after ``step`` steps.
    kept : dict of Tensor
        The weights of ``kept_step``: the best on validation clips so far; the last without them, or while fine-tuning,
        which gives faithfulness away on purpose.
    curves : Curves
    """

    decoder: MaskDecoder
    kept: dict[str, Tensor] = field(default_factory=dict)
    step: int = 0
    kept_step: int = 0
    best: float = -math.inf
    curves: Curves = field(default_factory=Curves)


class Training:
    """A training under way.

    Parameters
    ----------
    classifier : AudioClassifier
    decoder : MaskDecoder
        Initialised; trained in place.
    kind : MaskKind
    objective : Objective
    guidance : Guidance
        Of the second stage.
    recipe : Recipe
    """

    def __init__(
        self,
        classifier: AudioClassifier,
        decoder: MaskDecoder,
        *,
        kind: MaskKind,
        objective: Objective,
        guidance: Guidance,
        recipe: Recipe,
    ) -> None:
        self.classifier = classifier
        self.kind = kind
        self.objective = objective
        self.guidance = guidance
        self.recipe = recipe
        self.state = Trained(decoder)
        self.optimiser = torch.optim.Adam(decoder.parameters(), lr=recipe.learning_rate)
        self._listener: AudioClassifier | None = None
        self._means = Means()

    def run(
        self,
        train: Material,
        validation: Material | None,
        *,
        seed: int,
        workspace: Workspace,
        progress: Progress,
        on_look: Callable[[MaskDecoder, int], None] = lambda decoder, step: None,
    ) -> Trained:
        """Train to the end, from the workspace's checkpoint if it has one.

        Raises
        ------
        ExplanationError
            The loss or its gradient is no longer finite. The checkpoint, and the decoder that was best so far, stay.
        """
        self._resume(workspace)
        state = self.state
        n_chunks = len(train.chunks(self.recipe.batch_size))
        plan: list[tuple[int, ...]] = []
        while state.step < self.recipe.total:
            if state.step == self.recipe.steps:
                self._begin_finetuning()
            epoch, place = divmod(state.step, n_chunks)
            if not place or not plan:
                plan = train.chunks(self.recipe.batch_size, epoch)
            self._step(train, plan[place], epoch, seed)
            state.step += 1
            if state.step % STRETCH and state.step not in (self.recipe.steps, self.recipe.total):
                continue
            self._note_stretch()
            if not state.step % LOOK or state.step in (self.recipe.steps, self.recipe.total):
                on_look(self._look(validation), state.step)
                self._save(workspace, train.layers)
            progress(state.step, self.recipe.total, state.curves.summary())
        return state

    def _step(self, train: Material, indices: tuple[int, ...], epoch: int, seed: int) -> None:
        """One step of the optimiser on a batch of clips of equal length."""
        batch, clean = train.heard(indices, epoch)
        rows = train.rows(indices, batch)
        n_samples = batch.waveforms.shape[1]
        passage = train.passages(n_samples)
        budget = self._budgets(Random(seed, batch.clip_ids))
        logits = answer(self.state.decoder, rows.maps, rows.decision, self.classifier, n_samples)
        mask = self.kind.mask(logits, passage, rows.clips, budget)
        features = [*passage.heard_and_rest(mask, rows.clips)]
        if self.objective.exchange_weight:
            features.append(passage.features(mask.roll(1, 0), rows.clips))
        loss, p_heard, p_rest, gradients = self._asked(features, rows)

        own = mask if budget is None else self.kind.mask(logits, passage)
        unwarped = torch.ones_like(loss) if budget is None else budget.isnan().to(loss)
        terms = unwarped * self.sparsity * passage.extent(own)
        terms = terms + unwarped * self.objective.tv * total_variation(own)
        guided = torch.zeros(len(rows), dtype=torch.bool, device=loss.device)
        if self.state.step >= self.recipe.steps:
            to_bins = self.kind.binarize and self.guidance.loss == "bce"  # of which a binary mask has no gradient
            soft = replace(self.kind, binarize=False).mask(logits, passage) if to_bins else own
            extra, guided = self._guided(soft, clean, batch.waveforms)
            terms = torch.where(guided, 0.0, terms) + extra  # as the authors' code: guided instead of sparse
        self._descend([*zip(features, gradients, strict=True), (terms.mean(), None)], loss + terms.detach())
        kept = own if self.recipe.budget_share < 1 else mask
        level, spread = passage.level(kept.detach())
        self._means.add(
            loss=loss + terms,
            p_heard=p_heard,
            p_rest=p_rest,
            mean_mask=passage.extent(kept),
            level=level,
            spread=spread,
            guided=guided,
        )

    @property
    def sparsity(self) -> float:
        """λ_s of the next step; it is no longer adapted while masks follow guidance."""
        recipe = self.recipe
        return self.state.curves.adapted(self.objective.sparsity, recipe.mean_mask, until=recipe.steps)

    def _asked(self, features: Sequence[Tensor], rows: Rows) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """The classifier on heard, rest and, if they are given, exchanged features.

        Objective and probabilities (B,), gradients by the features. A few clips at a time: those gradients are all that
        the decoder needs of the classifier.
        """
        if self._listener is None:
            self._listener = swift(self.classifier, features[0][:2].detach())
        listener, n_rows, multilabel = self._listener, len(rows), self._listener.multilabel
        size = _ROWS_ASKED // 2 if features[0].device.type == "cpu" else n_rows
        foreign = rows.decision.roll(1)
        there = rows.found.gather(1, foreign[:, None])[:, 0]
        known = (rows.decision, foreign, there, rows.confidence)
        losses, answers, gradients = [], [], []
        for *heard, own, others, known_there, confidence in zip(
            *(torch.split(each.detach(), size) for each in (*features, *known)), strict=True
        ):
            leaf = torch.cat(heard).requires_grad_()
            logits = listener.logits_of_features(leaf)
            of_heard, of_rest, *of_exchanged = logits.chunk(len(heard))
            loss = self.objective.of_answers(of_heard, of_rest, own, confidence, multilabel=multilabel)
            for each in of_exchanged:
                loss = loss + self.objective.of_exchanged(each, others, known_there, multilabel=multilabel)
            gradients.append(torch.autograd.grad(loss.sum() / n_rows, leaf)[0].chunk(len(heard)))
            losses.append(loss.detach())
            p = listener.probabilities_of(torch.cat([of_heard, of_rest]).detach())
            answers.append(p.gather(1, own.repeat(2)[:, None])[:, 0].chunk(2))
        p_heard, p_rest = (torch.cat(each) for each in zip(*answers, strict=True))
        return torch.cat(losses), p_heard, p_rest, tuple(torch.cat(each) for each in zip(*gradients, strict=True))

    def _guided(self, mask: Tensor, clean: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        listening = self.classifier.listening
        with torch.no_grad():
            magnitudes = [listening.forward(each).abs() for each in (heard, clean)]
        lifted = on_stft(mask, self.classifier, clean.shape[1])
        return self.guidance.of_masks(lifted, *magnitudes, scale=self.kind.scale)

    def _descend(self, roots: list[tuple[Tensor, Tensor | None]], losses: Tensor) -> None:
        self._check_finite(losses)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.state.step)
        self.optimiser.zero_grad()
        tensors = [tensor for tensor, _ in roots if tensor.requires_grad]
        torch.autograd.backward(tensors, [gradient for tensor, gradient in roots if tensor.requires_grad])
        norm = torch.nn.utils.clip_grad_norm_(self.state.decoder.parameters(), _CLIP)
        self._check_finite(norm)  # before the step: the weights stay finite
        self.optimiser.step()

    def _budgets(self, random: Random) -> Tensor | None:
        """A share of energy for each row (B,), NaN where the mask is judged at its own level."""
        if not self.recipe.budget_share:
            return None
        drawn = random.uniform(f"budget {self.state.step}", 2)
        budget = BUDGETS[0] + (BUDGETS[-1] - BUDGETS[0]) * drawn[:, 0]
        return torch.where(drawn[:, 1] < self.recipe.budget_share, budget, torch.nan).to(self.classifier.device)

    @torch.no_grad()
    def _look(self, validation: Material | None) -> MaskDecoder:
        """Measure the decoder as it would be kept on validation clips, and keep it if it is the best so far."""
        state = self.state
        learnt = state.decoder.learnt()
        decoder = fresh(state.decoder, learnt)
        score = math.inf
        if validation is not None:
            means = Means()
            for indices in validation.chunks(self.recipe.batch_size):
                n_samples = validation.clean(indices).waveforms.shape[1]
                self._measure(decoder, validation.rows(indices), validation.passages(n_samples), n_samples, means)
            score = (means["AI"] + means["AG"] + means["FF"]) / 3
            if not math.isfinite(score):
                raise ExplanationError(
                    f"What {self.classifier.name} says of validation clips under their masks is not finite in step "
                    f"{state.step}. Look at what it divides by, or leave out clips that are nearly silent."
                )
            numbers = {**{name: means[name] for name in SCORES[1:-1]}, "step": float(state.step), "score": score}
            state.curves.validation.append([numbers[name] for name in SCORES])
        if score >= state.best or state.step > self.recipe.steps:
            state.best, state.kept_step = score, state.step
            state.kept = learnt
        return decoder

    def _measure(self, decoder: MaskDecoder, rows: Rows, passage: Passage, n_samples: int, means: Means) -> None:
        logits = answer(decoder, rows.maps, rows.decision, self.classifier, n_samples)
        for share in self.recipe.shares:
            budget = torch.full_like(rows.confidence, share)
            mask = self.kind.mask(logits, passage, rows.clips, budget)
            p = torch.sigmoid(rows.confidence)
            p_heard, p_rest = (
                self.classifier.probabilities_of(
                    torch.cat([self.classifier.logits_of_features(some) for some in torch.split(features, _ROWS_ASKED)])
                ).gather(1, rows.decision[:, None])[:, 0]
                for features in passage.heard_and_rest(mask, rows.clips)
            )
            gain = (p_heard - p).clamp_min(0) / (1 - p).clamp_min(1e-6)
            increase = (p_heard > p + _RISE).to(p)
            means.add(AI=increase, AG=gain.clamp_max(1), FF=p - p_rest, mean_mask=passage.extent(mask))

    def _note_stretch(self) -> None:
        numbers = {"step": float(self.state.step), **{name: self._means[name] for name in COLUMNS[1:]}}
        self.state.curves.training.append([numbers[name] for name in COLUMNS])
        self._means = Means()

    def _begin_finetuning(self) -> None:
        """The second stage starts from the best decoder of the first, if there was one."""
        if self.state.kept:
            self.state.decoder.load_state_dict(self.state.kept)
        self.optimiser = torch.optim.Adam(self.state.decoder.parameters(), lr=self.recipe.learning_rate)

    def _check_finite(self, values: Tensor) -> None:
        if bool(torch.isfinite(values).all()):
            return
        found = (
            f"The last checkpoint is kept, with the decoder of step {self.state.kept_step}: a fit with other settings, "
            "in another folder, can start from it (start=FOLDER)"
        )
        kept = found if self.state.kept else "There is no checkpoint"
        raise ExplanationError(
            f"Training the mask decoder diverged in step {self.state.step + 1} of {self.recipe.total}: the loss or its "
            f"gradient is no longer finite. {kept}. Lower learning_rate (now {self.recipe.learning_rate:g}) or the "
            f"weights of the objective, and look whether the classifier's logits are finite on quiet clips."
        )

    def _save(self, workspace: Workspace, layers: Sequence[str]) -> None:
        state = self.state
        tensors = {
            **{f"decoder/{name}": value for name, value in state.decoder.state_dict().items()},
            **{f"kept/{name}": value for name, value in state.kept.items()},
            **{
                f"optimiser/{number}/{name}": value
                for number, values in self.optimiser.state_dict()["state"].items()
                for name, value in values.items()
            },
            **state.curves.tensors(),
        }
        best = state.best if math.isfinite(state.best) else None
        known = {"classifier": self.classifier.checksum, "layers": list(layers), "bands": state.decoder.bands}
        steps = {"step": state.step, "kept_step": state.kept_step, "best": best, "sparsity": self.sparsity}
        workspace.save_checkpoint(tensors, **steps, **known)

    def _resume(self, workspace: Workspace) -> None:
        found = workspace.load_checkpoint()
        if found is None:
            return
        tensors, settings = found
        state = self.state
        state.decoder.load_state_dict(_part("decoder", tensors))
        state.kept, state.curves = _part("kept", tensors), Curves.of_tensors(tensors)
        state.step, state.kept_step = int(settings["step"]), int(settings["kept_step"])
        if settings["best"] is not None:
            state.best = float(settings["best"])
        moments: dict[int, dict[str, Any]] = {}
        for path, value in _part("optimiser", tensors).items():
            number, name = path.split("/")
            moments.setdefault(int(number), {})[name] = value
        if state.step != self.recipe.steps:  # where the second stage begins, the optimiser does too
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})


def fresh(decoder: MaskDecoder, state: dict[str, Tensor]) -> MaskDecoder:
    """A copy of a decoder with other weights, for use: without gradients."""
    other = copy.deepcopy(decoder)
    other.load_state_dict(state)
    return other.eval().requires_grad_(False)


def _part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{name}/"
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
