"""From a classifier and its training data to a fitted interpreter, in steps that can be taken up again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from earwitness.batching import load_batch
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError, NotApplicableError
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness_plugins.hidden_maps import check_layer_names, deepest_layers, hidden_maps
from earwitness_plugins.l2i.fitted import FittedInterpreter
from earwitness_plugins.l2i.interpreter import Sizes
from earwitness_plugins.l2i.material import Material
from earwitness_plugins.l2i.theta import Pooling
from earwitness_plugins.l2i.training import Recipe, Training
from earwitness_plugins.sparse_nmf.dictionary import Dictionary, learn_dictionary

N_LAYERS = 3

_CHECKPOINT_EVERY = 5
_MAX_FRAMES = 20_000
"""From which a dictionary is learnt: with 100 patterns, more frames change it little and take long."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to fit.

    Attributes
    ----------
    layers : tuple of three str or None
        None looks for them.
    n_patterns : int
        K.
    dictionary : Path or None
        Folder of a dictionary; None learns one.
    pooling : {"attention", "max"}
    width : int
    recipe : Recipe
    memory_mb : float
    """

    layers: tuple[str, ...] | None
    n_patterns: int
    dictionary: Path | None
    pooling: Pooling
    width: int
    recipe: Recipe
    memory_mb: float


def check_layers(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Three different names of layers, or None; else ConfigurationError."""
    layers = check_layer_names(names)
    if layers is not None and len(layers) != N_LAYERS:
        raise ConfigurationError(f"layers must be {N_LAYERS} names of layers, or left out; got {list(layers)}.")
    return layers


def fit_interpreter(
    plan: Plan,
    classifier: AudioClassifier,
    train: Dataset,
    validation: Dataset | None,
    *,
    seed: int,
    workspace: Workspace,
    progress: Progress,
) -> FittedInterpreter:
    """Dictionary, hidden maps, training; a checkpoint is kept after the dictionary and after every five epochs.

    Raises
    ------
    See :meth:`earwitness_plugins.l2i.explainer.L2I.fit`.
    """
    data = [train] if validation is None else [train, validation]
    if not all(len(dataset) for dataset in data):
        raise ConfigurationError("The validation data have no clips. Leave them out, or choose others.")
    n_clips = sum(len(dataset) for dataset in data)
    total = n_clips + plan.recipe.epochs
    kept = workspace.load_checkpoint()
    tensors = {} if kept is None else kept[0]
    layers, channels = _look(plan, classifier, train)
    patterns = _patterns(
        plan, classifier, train, tensors.get("patterns"), seed=seed, say=lambda text: progress(0, total, text)
    )
    workspace.save_checkpoint({**tensors, "patterns": patterns})
    materials = [Material(classifier, layers, patterns, dataset) for dataset in data]
    _listen(materials, plan.memory_mb, lambda done: progress(done, total, "listening"))
    sizes = Sizes(channels, plan.n_patterns, len(classifier.labels), plan.pooling, plan.width)
    training = Training(sizes, plan.recipe, materials[0], materials[1] if validation is not None else None, seed)
    if "epochs" in tensors:
        training.resume(tensors)
    while training.epoch < plan.recipe.epochs:
        training.next_epoch()
        if training.epoch % _CHECKPOINT_EVERY == 0 or training.epoch == plan.recipe.epochs:
            workspace.save_checkpoint({"patterns": patterns, **training.tensors()})
        progress(n_clips + training.epoch, total, training.summary())
    return FittedInterpreter.of(training, sizes)


def _listen(materials: Sequence[Material], memory_mb: float, report: Callable[[int], None]) -> None:
    """Compute what the losses need of all clips, and keep what fits into memory; ``report`` is told how many are
    done."""
    before = 0
    for material in materials:
        for done in material.prepare(memory_mb - sum(other.kept_mb for other in materials)):
            report(before + done)
        before += len(material)


@torch.no_grad()
def _look(plan: Plan, classifier: AudioClassifier, train: Dataset) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The layers, and the channels of their maps in the order in which they run."""
    waveforms = load_batch(train, [0], classifier.rate, device=classifier.device).waveforms
    features = classifier.features(waveforms)
    layers = plan.layers or deepest_layers(classifier, features, N_LAYERS)
    if len(layers) < N_LAYERS:
        raise NotApplicableError(
            f"l2i needs {N_LAYERS} hidden maps over time, each behind an activation; {classifier.name} has only "
            f'{", ".join(layers)}. Name {N_LAYERS} layers: layers=["…", "…", "…"].'
        )
    return layers, tuple(maps.shape[1] for maps in hidden_maps(classifier, features, layers, least_cells=2).maps)


def _patterns(
    plan: Plan,
    classifier: AudioClassifier,
    train: Dataset,
    before: Tensor | None,
    *,
    seed: int,
    say: Callable[[str], None],
) -> Tensor:
    """W (F, K): from the checkpoint, from the dictionary's folder, or learnt."""
    listening = classifier.listening
    if plan.dictionary is not None:
        patterns = _checked(Dictionary.load(plan.dictionary), plan, classifier)
        if before is not None and not torch.equal(before, patterns):
            raise CheckpointError(
                f"The dictionary in {plan.dictionary} is not the one that this fit was begun with. Choose another "
                "--out, or put the dictionary back."
            )
    elif before is not None:
        patterns = before
    else:
        found = learn_dictionary(
            train,
            listening,
            n_patterns=plan.n_patterns,
            max_frames=_MAX_FRAMES,
            seed=seed,
            device=str(classifier.device),
            progress=lambda _done, _total, text: say(text),
        )
        patterns = found.patterns
    return patterns.float().contiguous().to(classifier.device)


def _checked(dictionary: Dictionary, plan: Plan, classifier: AudioClassifier) -> Tensor:
    """The patterns of a dictionary that fits; else ConfigurationError."""
    dictionary.check_matches(classifier.listening)
    if len(dictionary) != plan.n_patterns:
        raise ConfigurationError(
            f"The dictionary in {plan.dictionary} has {len(dictionary)} patterns, not {plan.n_patterns}: say "
            f"patterns={len(dictionary)}."
        )
    return dictionary.patterns.cpu()
