"""Training a classifier's network, in one loop for all of them: seeded, resumable, with weights averaged over steps.

One-cycle learning rate, AdamW, cross-entropy with soft targets. What is kept is not the network of the last step but a
running average of its weights, at the epoch with the least validation loss. On the CPU, equal seed, data and thread
count give equal weights, to the last bit, in one go or resumed. N clips, B rows of a batch, T samples, C classes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from earwitness.artifacts import digest_of, load_tensors, save_tensors
from earwitness.audio.front_end import FrontEnd
from earwitness.errors import CheckpointError, ClassifierError, ConfigurationError
from earwitness.parameters import changed
from earwitness_plugins.classifiers.augmentation import Augmentation
from earwitness_plugins.classifiers.descent import follow, one_cycle
from earwitness_plugins.classifiers.training_data import (
    Clips,
    FeatureData,
    TrainingData,
    check_clips,
    check_labels,
    features_of,
    fingerprint,
)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How a network is trained.

    Attributes
    ----------
    epochs : int
        Passes over the training clips.
    batch_size : int
        Clips per step.
    learning_rate : float
        At its peak.
    warm_up : float, in (0, 1)
        Share of all steps during which the learning rate rises, from 0; then it falls to 0 along half a cosine.
    weight_decay : float
        Of AdamW.
    label_smoothing : float, in [0, 1)
        Share of each target that is spread evenly over the classes.
    averaging_steps : int
        Memory of the running average of the weights, in steps: it keeps 1 - 1/averaging_steps of itself at each, and is
        the plain mean before there are that many. 1 averages nothing.
    augmentation : Augmentation or None
        None trains on the clips as they are; their features are then computed once. A dict of its attributes will do.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    warm_up: float = 0.15
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    averaging_steps: int = 1
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        if isinstance(self.augmentation, Mapping):
            object.__setattr__(self, "augmentation", changed(Augmentation(), self.augmentation, "augmentation"))
        if min(self.epochs, self.batch_size, self.averaging_steps) < 1 or not self.learning_rate > 0:
            raise ConfigurationError(f"Epochs, batch size, averaging steps and learning rate must be positive: {self}.")
        if not (0 < self.warm_up < 1 and 0 <= self.label_smoothing < 1 and self.weight_decay >= 0):
            raise ConfigurationError(
                f"Expected warm_up in (0, 1), label_smoothing in [0, 1) and weight_decay >= 0, got {self}."
            )

    def learning_rate_at(self, step: int, n_steps: int) -> float:
        """Learning rate of step 0, 1, … ``n_steps`` - 1."""
        return one_cycle(self.learning_rate, step, n_steps, warm_up=self.warm_up)


@dataclass(frozen=True)
class Curves:
    """What was measured after each epoch; the validation's are of the averaged weights, empty without validation.

    Attributes
    ----------
    train_loss, validation_loss : list of float
        Mean cross-entropy in nats; the training's with augmentation and smoothing, while weights were changing.
    validation_accuracy : list of float, in [0, 1]
    """

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained network's weights.

    Attributes
    ----------
    state_dict : dict of Tensor
        Averaged weights, on the CPU.
    epoch : int
        The epoch that they were taken after, from 1: the one of least validation loss, or the last.
    curves : Curves
    """

    state_dict: dict[str, Tensor]
    epoch: int
    curves: Curves


def train_network(
    network: nn.Module,
    front_end: FrontEnd,
    waveforms: Tensor,
    labels: Tensor,
    *,
    recipe: TrainingRecipe,
    seed: int,
    validation: Clips | None = None,
    progress: Callable[[int, int, str], None] | None = None,
    checkpoint: Path | None = None,
) -> TrainingResult:
    """Train a network from scratch.

    Parameters
    ----------
    network : nn.Module
        Features to logits (B, C). It is left as it is: a copy is initialised anew (``reset_parameters`` of each of its
        modules) from ``seed``, and trained on the device where its parameters are.
    front_end : FrontEnd
        Waveforms (B, T) to features (B, 1, M, N'), on that device. It is not trained.
    waveforms : Tensor (N, T), float32
        In [-1, 1], on the CPU.
    labels : Tensor (N,), int64
        In [0, C).
    recipe : TrainingRecipe
    seed : int
        Of all that is random: initial weights, order of clips, augmentation, dropout. PyTorch's own generator is put
        back as it was.
    validation : (waveforms, labels), optional
        Decides which epoch's weights are kept.
    progress : callable (epochs done, epochs in all, text), optional
    checkpoint : Path, optional
        A safetensors file, replaced after each epoch; training that finds one goes on from there, and ends as it would
        have ended in one go. It is left in place at the end: remove it when the result is safe.

    Returns
    -------
    TrainingResult

    Raises
    ------
    DatasetError
        There is no clip, or a label is no class of the network.
    AudioError
        Waveforms have another shape or type, or hold NaN or infinity.
    CheckpointError
        The checkpoint is damaged, or of another training.
    ClassifierError
        The loss is no longer finite. The checkpoint holds the last epoch before.
    """
    if validation is not None:
        check_clips("validation", validation)
    device = next(network.parameters()).device
    data = TrainingData((waveforms, labels), front_end, device, recipe.augmentation)
    with _own_randomness(seed, device):
        return _Run(network, data, validation, recipe, seed, checkpoint).to_the_end(progress)


def train_on_features(
    network: nn.Module,
    features: Tensor,
    labels: Tensor,
    *,
    recipe: TrainingRecipe,
    seed: int,
    initialise: Callable[[nn.Module], None] | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> TrainingResult:
    """Train a network from scratch on feature maps as they are given. The averaged weights of the last epoch are kept.

    Parameters
    ----------
    network : nn.Module
        As for :func:`train_network`.
    features : Tensor (N, 1, M, N'), float32
        On the network's device.
    labels : Tensor (N,), int64
        In [0, C), on the CPU.
    recipe : TrainingRecipe
    seed : int
    initialise : callable, optional
        Changes the initial weights of the network that it is given, drawing from PyTorch's own generator.
    progress : callable (epochs done, epochs in all, text), optional

    Returns
    -------
    TrainingResult

    Raises
    ------
    DatasetError, AudioError, ConfigurationError
        See :class:`~earwitness_plugins.classifiers.training_data.FeatureData`; or a label is no class of the network.
    ClassifierError
        The loss is no longer finite.
    """
    data = FeatureData(features, labels, recipe.augmentation)
    with _own_randomness(seed, data.device):
        run = _Run(network, data, None, recipe, seed, None)
        if initialise is not None:
            initialise(run.network)
            run.average.load_state_dict(run.network.state_dict())
        return run.to_the_end(progress)


class _Run:
    """A training under way: all that changes from step to step, and how it is kept."""

    def __init__(
        self,
        network: nn.Module,
        data: TrainingData | FeatureData,
        validation: Clips | None,
        recipe: TrainingRecipe,
        seed: int,
        checkpoint: Path | None,
    ) -> None:
        self.data = data
        self.recipe = recipe
        self.checkpoint = checkpoint
        self.generator = torch.Generator().manual_seed(seed)
        self.network = _initialised(network)
        self.average = copy.deepcopy(self.network).eval()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.epoch, self.step, self.kept_epoch = 0, 0, 0
        self.kept: dict[str, Tensor] = {}
        self.curves = Curves()
        with torch.no_grad():
            self.n_classes = self.average(data.silence).shape[1]
        check_labels("training", data.labels, self.n_classes)
        self.held_out = None
        if validation is not None and isinstance(data, TrainingData):
            check_labels("validation", validation[1], self.n_classes)
            features = features_of(data.front_end, validation[0], data.device)
            self.held_out = (features, validation[1].to(data.device))
        self.key = self._identity(seed, validation)

    def to_the_end(self, progress: Callable[[int, int, str], None] | None) -> TrainingResult:
        """All epochs that are left, after those of the checkpoint."""
        if self.checkpoint is not None and self.checkpoint.exists():
            self.resume(self.checkpoint)
        while self.epoch < self.recipe.epochs:
            self.next_epoch()
            if progress is not None:
                progress(self.epoch, self.recipe.epochs, self.summary())
        return TrainingResult(_cpu_copy(self.kept), self.kept_epoch, self.curves)

    def next_epoch(self) -> None:
        """One pass over the clips; then measure, keep the best, and write the checkpoint."""
        loss = self._train()
        self._check_finite(sum(float(value.abs().sum()) for value in self.average.state_dict().values()))
        self.curves.train_loss.append(loss)
        best = self._validate() if self.held_out is not None else True
        self.epoch += 1
        if best:
            self.kept = _cpu_copy(self.average.state_dict())
            self.kept_epoch = self.epoch
        if self.checkpoint is not None:
            self._save(self.checkpoint)

    def _train(self) -> float:
        """One pass over the clips in a new order; returns the mean loss."""
        # Dropout draws from PyTorch's own generator: seeded here, it needs no place in the checkpoint.
        torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
        self.network.train()
        total = 0.0
        for rows in torch.split(torch.randperm(len(self.data), generator=self.generator), self.recipe.batch_size):
            features, targets = self.data.batch(rows, self.n_classes, self.generator)
            logits = self.network(features)
            loss = functional.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
            self._check_finite(loss.item())
            self._descend(loss)
            total += loss.item() * len(rows)
        return total / len(self.data)

    def _descend(self, loss: Tensor) -> None:
        """One step of the optimiser, and of the average behind it."""
        n_steps = math.ceil(len(self.data) / self.recipe.batch_size) * self.recipe.epochs
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step, n_steps)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        follow(self.average, self.network, steps_taken=self.step, memory=self.recipe.averaging_steps)

    def _validate(self) -> bool:
        """Measure the averaged weights; returns whether they are the best so far."""
        assert self.held_out is not None
        features, labels = self.held_out
        with torch.no_grad():
            logits = torch.cat([self.average(chunk) for chunk in torch.split(features, 16)])
        loss = functional.cross_entropy(logits, labels).item()
        self._check_finite(loss)
        self.curves.validation_loss.append(loss)
        self.curves.validation_accuracy.append((logits.argmax(1) == labels).float().mean().item())
        return loss <= min(self.curves.validation_loss)

    def summary(self) -> str:
        """One line on the epoch that has just ended."""
        text = f"loss {self.curves.train_loss[-1]:.3f}"
        if self.curves.validation_loss:
            accuracy, loss = self.curves.validation_accuracy[-1], self.curves.validation_loss[-1]
            text += f", validation {100 * accuracy:.1f} % (loss {loss:.3f})"
        return text

    def _save(self, path: Path) -> None:
        states: dict[str, Mapping[str, Tensor]] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "kept": self.kept,
            "optimiser": _flat(self.optimiser.state_dict()["state"]),
            "generator": {"state": self.generator.get_state()},
        }
        tensors = {f"{part}.{name}": value for part, state in states.items() for name, value in state.items()}
        counts = {"epoch": self.epoch, "step": self.step, "kept_epoch": self.kept_epoch}
        save_tensors(path, tensors, {"training": self.key, "counts": counts, "curves": asdict(self.curves)})

    def resume(self, path: Path) -> None:
        """Take up a checkpoint."""
        tensors, document = load_tensors(path)
        if document.get("training") != self.key:
            raise CheckpointError(
                f"{path} is of another training (other recipe, seed, data, front end or network). "
                "Choose another path, or remove it to start again."
            )
        self.network.load_state_dict(_part("network", tensors))
        self.average.load_state_dict(_part("average", tensors))
        self.kept = _part("kept", tensors)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": _nested(_part("optimiser", tensors))})
        self.generator.set_state(tensors["generator.state"])
        counts = document["counts"]
        self.epoch, self.step, self.kept_epoch = counts["epoch"], counts["step"], counts["kept_epoch"]
        self.curves = Curves(**document["curves"])

    def _identity(self, seed: int, validation: Clips | None) -> str:
        """Digest of all that decides the weights: a checkpoint of another training is not taken up."""
        return digest_of(
            {
                "recipe": asdict(self.recipe),
                "seed": seed,
                "network": str(self.network),
                **self.data.identity(),
                "validation": None if validation is None else fingerprint(validation),
            }
        )

    def _check_finite(self, value: float) -> None:
        if math.isfinite(value):
            return
        hint = "Nothing was kept: give a checkpoint path to keep each epoch."
        if self.checkpoint is not None:
            kept = self.checkpoint.exists()
            hint = f"{self.checkpoint} holds the last good epoch." if kept else "There was no good epoch yet."
        raise ClassifierError(
            f"Training diverged in epoch {self.epoch + 1} of {self.recipe.epochs}, after {self.step} steps: the loss "
            f"or a weight is {value}. {hint} Lower the learning rate (now {self.recipe.learning_rate} at its peak)."
        )


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's own generators (initial weights, dropout), and put them back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _initialised(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network.requires_grad_(True)


def _cpu_copy(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}


def _flat(state: Mapping[int, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """AdamW's state by parameter number, as one mapping of ``"3.exp_avg"`` to tensors."""
    return {f"{number}.{name}": value for number, values in state.items() for name, value in values.items()}


def _nested(flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    state: dict[int, dict[str, Any]] = {}
    for path, value in flat.items():
        number, name = path.split(".")
        state.setdefault(int(number), {})[name] = value
    return state


def _part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``name.``, without it."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
