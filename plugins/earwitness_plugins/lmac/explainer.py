"""L-MAC as a fitted explainer: the published method, and what makes it work on little data and at any budget."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, get_args

import torch
from torch import Tensor

from earwitness.audio.files import write_audio
from earwitness.audio.masking import apply_gain, mask_to_gain
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.errors import CheckpointError, ConfigurationError, ExplanationError, nearest
from earwitness.explanation import SCALES, Explanation, Mask, Scale
from earwitness.fitting import Workspace, fitted_identity, unfinished_fit
from earwitness.identity import digest_of_tensors
from earwitness.protocols import Progress
from earwitness.random import Random
from earwitness_plugins.hidden_maps import check_layer_names, hidden_maps
from earwitness_plugins.lmac.beginning import (
    chosen_layers,
    common_length,
    earlier_fit,
    first_audible,
    listen_to_all,
    new_decoder,
    only_length,
)
from earwitness_plugins.lmac.curves import collapse
from earwitness_plugins.lmac.decoder import MaskDecoder
from earwitness_plugins.lmac.fitted import FittedDecoder
from earwitness_plugins.lmac.guidance import Guidance, GuidanceLoss
from earwitness_plugins.lmac.masks import MaskKind, answer, on_stft
from earwitness_plugins.lmac.material import Material
from earwitness_plugins.lmac.noise import CLIPS, NoiseFolder, find_noise
from earwitness_plugins.lmac.objective import Objective, OutLoss
from earwitness_plugins.lmac.passages import MaskDomain, Passage, coarse_grid
from earwitness_plugins.lmac.training import Recipe, Training, fresh


class LMAC:
    """A mask from a decoder that was trained to keep what convinces the classifier, and to leave nothing that does.

    It was trained on decisions of the classifier; told another class, it shows what of the recording speaks for that.

    Parameters
    ----------
    layers : list of str, optional
        Dotted names of hidden layers with a map over time. Default: the last activated maps of the four deepest
        resolutions.
    width : int
        Channels of the decoder at the deepest map, half as many at each earlier one.
    domain : {"stft", "features"}
        Whether the mask acts on the listening STFT, or on the bands of the classifier's front end while it is trained.
    scale : {"magnitude", "log1p"}
        A mask is a gain, as in the paper, or an exponent, as in its code.
    binarize : bool
        Make the mask binary at one half, with a straight-through gradient.
    out_loss : {"bounded", "published"}
        See :mod:`earwitness_plugins.lmac.objective`.
    in_weight, increase_weight, out_weight, exchange_weight, sparsity, tv : float
        λ_in, λ_inc, λ_out, λ_x, λ_s and λ_tv; see there.
    class_conditional : bool
        Whether the decoder is told which class to explain. If not, it explains the decision whatever is asked for.
    mean_mask : float, in (0, 1), optional
        What masks should keep of the listening STFT on average, and less than the classifier hears of it: λ_s begins
        as ``sparsity`` and is adapted. ``None``: it stays that. Not used where all masks are warped to budgets, which
        say what they keep.
    steps, batch_size, learning_rate
        Of Adam, whose learning rate falls to 0 along a cosine.
    budget_share : float, in [0, 1]
        Share of training clips whose mask is warped to a random share of the recording's energy (0.1 to 0.9) before it
        is judged. With 1 a mask is nothing but a ranking; its own level is then that at which half of the energy is
        kept.
    noise : str, optional
        In the training clips: ``"clips"`` for others of them, ``"white"``, ``"pink"``, ``"brown"``, or a folder of
        recordings.
    noise_snr_db : float
        10 log10 of the clip's energy over the noise's.
    finetune_steps : int
        Steps of a second stage, in which what is heard is guided towards the clean clip.
    start : str, optional
        The folder of an earlier fit to the same classifier, finished or not, from whose decoder this one starts; and
        from its last λ_s, if that is adapted. ``steps`` may then be 0.
    guidance_weight, guidance_loss, least_cosine
        λ_g, ``"bce"`` or ``"norm"``, and CCT; see :class:`~earwitness_plugins.lmac.guidance.Guidance`.
    examples : int
        So many clips are made audible at each look at validation, in ``examples`` in the fit's folder.
    memory_mb : float
        For what is computed of the clips once.

    Raises
    ------
    ConfigurationError
        A parameter is not valid; or, while fitting, there is no clip with anything to hear, a mask over features of a
        classifier that has none, one class under softmax, or no second clip for ``noise="clips"``.

    Notes
    -----
    Clips of different lengths are trained on at their median length, or at the only one that the classifier takes: an
    excerpt of each longer one, shorter ones repeated. They are explained, and validated, at their own.

    Of the decoders of all looks at validation (every 250 steps), the one with the highest mean of AI, AG and FF on the
    validation clips is kept; without validation clips, that of the last step. After fine-tuning it is always the last.

    Diagnostics: ``collapsed``, 1 where a mask is all-zero, all-one or constant; ``is_decision``, 0 where the target is
    not what the classifier decides, which is all that the decoder was trained on; and ``class_trained``, 0 where no
    training clip was of the target class, so that the decoder is told nothing.
    """

    def __init__(
        self,
        *,
        layers: Sequence[str] | None = None,
        width: int = 256,
        domain: MaskDomain = "stft",
        scale: Scale = "magnitude",
        binarize: bool = False,
        out_loss: OutLoss = "bounded",
        in_weight: float = 8.0,
        increase_weight: float = 4.0,
        out_weight: float = 4.0,
        exchange_weight: float = 4.0,
        class_conditional: bool = True,
        sparsity: float = 8.0,
        mean_mask: float | None = 0.28,
        tv: float = 0.0,
        steps: int = 2000,
        batch_size: int = 16,
        learning_rate: float = 1e-3,
        budget_share: float = 0.0,
        noise: str | None = "clips",
        noise_snr_db: float = 2.0,
        finetune_steps: int = 0,
        start: str | None = None,
        guidance_weight: float = 32.0,
        guidance_loss: GuidanceLoss = "norm",
        least_cosine: float = 0.6,
        examples: int = 0,
        memory_mb: float = 2048.0,
    ) -> None:
        _check_choice("domain", domain, get_args(MaskDomain))
        _check_choice("scale", scale, SCALES)
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ConfigurationError(f"width is a whole number of 1 or more, got {width!r}.")
        if isinstance(examples, bool) or not isinstance(examples, int) or examples < 0 or not memory_mb >= 0:
            raise ConfigurationError(f"examples and memory_mb are not negative, got {examples!r} and {memory_mb!r}.")
        if budget_share and (binarize or scale != "magnitude"):
            raise ConfigurationError(
                "Only a gain is warped to a budget: leave out binarize and scale, or budget_share."
            )
        if not sparsity and mean_mask is not None and budget_share < 1:
            raise ConfigurationError(
                "A sparsity of 0 cannot be adapted until masks keep mean_mask: choose one above 0, or mean_mask=None."
            )
        if not steps and start is None:
            raise ConfigurationError("Without an earlier fit to start from, steps must be 1 or more, got 0.")
        if not -100 <= noise_snr_db <= 100:
            raise ConfigurationError(f"noise_snr_db is a number of decibels, got {noise_snr_db!r}.")
        self.layers = check_layer_names(layers)
        self.width = width
        self.class_conditional = bool(class_conditional)
        self.kind = MaskKind(domain=domain, scale=scale, binarize=bool(binarize), budgets=budget_share > 0)
        self.objective = Objective(
            in_weight=in_weight,
            increase_weight=increase_weight,
            out_weight=out_weight,
            exchange_weight=exchange_weight,
            sparsity=sparsity,
            tv=tv,
            out_loss=out_loss,
        )
        self.guidance = Guidance(weight=guidance_weight, loss=guidance_loss, least_cosine=least_cosine)
        self.recipe = Recipe(
            steps=steps,
            finetune_steps=finetune_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            budget_share=budget_share,
            mean_mask=mean_mask if budget_share < 1 else None,
        )
        self.start = start
        self.noise = noise
        self.noise_snr_db = noise_snr_db
        self.examples = examples
        self.memory_mb = memory_mb
        self.notes: list[str] = []
        self._fitted: FittedDecoder | None = None

    @property
    def contents(self) -> dict[str, Any] | None:
        """What is in the folders that the parameters name; see :class:`earwitness.protocols.Fittable`."""
        found: dict[str, Any] = {}
        if self.start is not None:
            if (unfinished := unfinished_fit(Path(self.start))) is None:
                found["start"] = fitted_identity(Path(self.start))
            else:
                tensors, values = unfinished
                found["start"] = {**values, "tensors": digest_of_tensors(tensors)}
        if self.noise not in (None, CLIPS) and isinstance(noise := find_noise(str(self.noise)), NoiseFolder):
            found["noise"] = noise.checksum
        return found or None

    @property
    def fitted(self) -> FittedDecoder:
        """The decoder.

        Raises
        ------
        ExplanationError
            There is none yet.
        """
        if self._fitted is None:
            raise ExplanationError(
                "lmac must be fitted first: earwitness fit lmac --classifier … --dataset … --out FOLDER, then "
                "--checkpoint FOLDER."
            )
        return self._fitted

    @property
    def n_parameters(self) -> int:
        """How many numbers were fitted."""
        return sum(parameter.numel() for parameter in self.fitted.decoder.parameters())

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
        """Train the decoder; see :class:`earwitness.protocols.Fittable`.

        Raises
        ------
        ConfigurationError
            Every training clip is silent, there is no such noise, a mask over features was asked for of a classifier
            without a log-mel front end, or one that has a single class under softmax, or hears less than ``mean_mask``.
        ClassifierError, NotApplicableError
            See :func:`~earwitness_plugins.hidden_maps.hidden_maps`: a layer is missing, or has no spatial shape.
        ExplanationError
            The training diverged.
        CheckpointError
            What it should start from is another method, of another classifier, width or layers, or damaged.
        """
        material, held_out = self._materials(classifier, train, validation, random, progress)
        objective = self.objective
        if self.start is None:
            decoder = new_decoder(material, self.width, told=self.class_conditional, seed=random)
        else:
            earlier = earlier_fit(
                Path(self.start), classifier, material.layers, self.width, told=self.class_conditional
            )
            decoder = copy.deepcopy(earlier.decoder).train().requires_grad_()
            if earlier.sparsity and self.recipe.mean_mask is not None:
                objective = replace(objective, sparsity=earlier.sparsity)
        to_select_by = held_out if held_out is not None and len(held_out) else None
        training = Training(
            classifier,
            decoder.to(classifier.device),
            kind=self.kind,
            objective=objective,
            guidance=self.guidance,
            recipe=self.recipe,
        )
        make_audible = functools.partial(self._write_examples, classifier, to_select_by or material, workspace)
        found = training.run(
            material, to_select_by, seed=random, workspace=workspace, progress=progress, on_look=make_audible
        )
        kept = fresh(decoder, found.kept)
        self._fitted = FittedDecoder(kept, material.layers, found.kept_step, training.sparsity, found.curves)
        self.notes = self._notes(material, held_out, classifier)

    def state(self) -> Mapping[str, Tensor]:
        """See :meth:`FittedDecoder.tensors`; training curves included."""
        if self._fitted is None:
            raise CheckpointError("lmac has not been fitted.")
        return self._fitted.tensors()

    def load_state(self, state: Mapping[str, Tensor]) -> Self:
        """Take up a fitted decoder.

        Raises
        ------
        CheckpointError
            It is of another width, or listens to other layers, than this explainer was asked for.
        """
        fitted = FittedDecoder.of_tensors(state)
        width = fitted.decoder.deepest.in_channels
        if width != MaskDecoder([1], self.width).deepest.in_channels:
            raise CheckpointError(f"This decoder was fitted with width {width}, not {self.width}. Fit again.")
        if self.class_conditional != bool(fitted.decoder.classes):
            told = "is told the class" if fitted.decoder.classes else "is not told the class"
            raise CheckpointError(f"This decoder {told}, and class_conditional is {self.class_conditional}. Fit again.")
        if self.layers is not None and set(self.layers) != set(fitted.layers):
            raise CheckpointError(
                f"This decoder listens to {', '.join(fitted.layers)}, not to {', '.join(self.layers)}. Fit again."
            )
        self._fitted = fitted
        return self

    @torch.no_grad()
    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        ExplanationError
            It has not been fitted.
        ClassifierError, CheckpointError
            The classifier does not have the layers, or other channels there.
        """
        n_samples = batch.waveforms.shape[1]
        passage = self.kind.passage(classifier, n_samples)
        mask, decision = self._mask(
            classifier, passage, batch.waveforms, self.fitted.decoder, self.fitted.layers, target
        )
        levels = zip(*(each.tolist() for each in passage.level(mask)), strict=True)
        flat = [bool(collapse(level, spread)) for level, spread in levels]
        if self.kind.domain == "stft":
            mask = on_stft(mask, classifier, n_samples)
        return Explanation(
            target,
            mask=Mask(mask.clamp(0, 1), self.kind.domain, self.kind.scale),
            diagnostics={
                "collapsed": torch.tensor(flat, dtype=torch.float32, device=mask.device),
                "is_decision": (decision == target).float(),
                "class_trained": self.fitted.decoder.is_trained(target).float(),
            },
        )

    def _mask(
        self,
        classifier: AudioClassifier,
        passage: Passage,
        waveforms: Tensor,
        decoder: MaskDecoder,
        layers: Sequence[str],
        target: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks where their passage uses them, for the decisions if for nothing else; and those decisions (B,)."""
        hidden = hidden_maps(classifier, classifier.features(waveforms), layers)
        decision = hidden.logits.argmax(1)
        target = decision if target is None else target
        logits = answer(decoder.to(waveforms.device), hidden.maps, target, classifier, waveforms.shape[1])
        if self.recipe.budget_share < 1:
            return self.kind.mask(logits, passage), decision
        # A mask that was only ever judged at budgets has no level of its own.
        budget = torch.full((len(decision),), 0.5, device=logits.device)
        return self.kind.mask(logits, passage, passage.analysed(waveforms), budget), decision

    def _materials(
        self,
        classifier: AudioClassifier,
        train: Dataset,
        validation: Dataset | None,
        seed: int,
        progress: Progress,
    ) -> tuple[Material, Material | None]:
        """The clips to train on and those to select by, all of them listened to."""
        n_samples = common_length(train, classifier)
        first = first_audible(train, classifier, n_samples, seed=seed)
        self._check_classifier(classifier, first.waveforms.shape[1])
        layers = chosen_layers(classifier, first, self.layers)
        passages = functools.lru_cache(maxsize=16)(functools.partial(self.kind.passage, classifier))
        material = Material(
            classifier,
            layers,
            passages,
            train,
            seed=seed,
            n_samples=n_samples,
            noise=self.noise,
            noise_snr_db=self.noise_snr_db,
        )
        held_out = None
        if validation is not None:
            only = only_length(classifier)
            held_out = Material(classifier, layers, passages, validation, seed=seed, n_samples=only)
        listen_to_all([material] if held_out is None else [material, held_out], self.memory_mb, progress)
        if self.noise == CLIPS and len(material) < 2:
            raise ConfigurationError(
                "noise='clips' adds other training clips, and only one has anything to hear. Give more clips, or other "
                "noise, such as 'pink'."
            )
        return material, held_out

    def _check_classifier(self, classifier: AudioClassifier, n_samples: int) -> None:
        """Raise ConfigurationError where it is always certain, or hears less than masks should keep."""
        if len(classifier.labels) == 1 and not classifier.multilabel:
            raise ConfigurationError(
                f"{classifier.name} has one class under softmax, so it is certain of whatever it hears. If its output "
                "is a logit, describe it with multilabel=True."
            )
        passage = self.kind.passage(classifier, n_samples)
        ones = torch.ones(1, *coarse_grid(classifier, n_samples).shape, device=classifier.device)
        most = float(passage.extent(passage.spread(ones)))
        if self.recipe.mean_mask is not None and self.recipe.mean_mask >= most:
            raise ConfigurationError(
                f"Masks should keep mean_mask={self.recipe.mean_mask:g} of the listening STFT, and {classifier.name} "
                f"hears {most:.2g} of it. Choose less, such as {0.28 * most:.2g}."
            )

    def _notes(self, material: Material, held_out: Material | None, classifier: AudioClassifier) -> list[str]:
        """What should be known of a fit."""
        fitted, notes = self.fitted, []
        if collapsed := fitted.curves.collapse:
            notes.append(f"At the end of the training {collapsed}. Look at its curves, and at other weights.")
        if material.silent:
            notes.append(f"Silent clips were left out, {_some(material.silent)}.")
        if held_out is not None and held_out.silent:
            last = "" if len(held_out) else " Nothing was left to select by: the decoder is that of the last step."
            notes.append(f"Silent validation clips were left out, {_some(held_out.silent)}.{last}")
        lengths_s = sorted(entry.n_samples / material.dataset.rate for entry in material.dataset.entries)
        trained_s = (material.n_samples or 0) / classifier.rate
        if trained_s and not lengths_s[0] == lengths_s[-1] == trained_s:
            notes.append(f"Clips of {lengths_s[0]:.2f} to {lengths_s[-1]:.2f} s were trained on at {trained_s:.2f} s.")
        trained = fitted.decoder.is_trained(torch.arange(len(classifier.labels), device=classifier.device)).tolist()
        if untrained := [label for label, was in zip(classifier.labels, trained, strict=True) if not was]:
            notes.append(f"The decoder is told nothing of classes that were never decided, {_some(untrained)}.")
        return notes

    @torch.no_grad()
    def _write_examples(
        self, classifier: AudioClassifier, material: Material, workspace: Workspace, decoder: MaskDecoder, step: int
    ) -> None:
        """What is heard of the first few clips, as :meth:`explain` would mask them after so many steps."""
        folder = workspace.folder / "examples"
        for index in [index for chunk in material.chunks(1) for index in chunk][: self.examples]:
            folder.mkdir(parents=True, exist_ok=True)
            batch = material.clean([index])
            n_samples, listening = batch.waveforms.shape[1], classifier.listening
            mask, _ = self._mask(classifier, material.passages(n_samples), batch.waveforms, decoder, material.layers)
            spectrum = listening.forward(batch.waveforms)
            gain = mask_to_gain(on_stft(mask, classifier, n_samples), spectrum.abs(), self.kind.scale)
            heard = listening.inverse(apply_gain(gain, spectrum), n_samples)[0]
            name = re.sub(r"[^\w.-]+", "_", f"{index}-{batch.clip_ids[0]}")
            write_audio(folder / f"{name}-step{step:05d}.wav", heard, batch.rate)


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} in all: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"


def _check_choice(name: str, given: str, choices: Sequence[str]) -> None:
    if given not in choices:
        raise ConfigurationError(f"There is no {name} {given!r}. {nearest(str(given), choices)}")
