"""Training a classifier's network, in one loop for all of them: seeded, resumable, with weights averaged over steps.

One-cycle learning rate (linear rise, cosine fall), AdamW, cross-entropy with soft targets. What is kept is not the
network of the last step but a running average of its weights (Izmailov et al., UAI 2018; here exponential), at the
epoch with the least validation loss. On the CPU, equal seed, data and thread count give equal weights, to the last bit,
in one go or resumed. N clips, B rows of a batch, T samples, C classes.
"""

from __future__ import annotations

import copy
import hashlib
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
from earwitness.errors import AudioError, CheckpointError, ClassifierError, ConfigurationError, DatasetError
from earwitness_plugins.classifiers.augmentation import Augmentation, augment_waveforms, drop_regions

Clips = tuple[Tensor, Tensor]
"""Waveforms (N, T), float32 in [-1, 1], and labels (N,), int64."""

_CHUNK = 16  # clips per forward pass where nothing is learnt


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
        None trains on the clips as they are; their features are then computed once.
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
        if min(self.epochs, self.batch_size, self.averaging_steps) < 1 or not self.learning_rate > 0:
            raise ConfigurationError(f"Epochs, batch size, averaging steps and learning rate must be positive: {self}.")
        if not (0 < self.warm_up < 1 and 0 <= self.label_smoothing < 1 and self.weight_decay >= 0):
            raise ConfigurationError(
                f"Expected warm_up in (0, 1), label_smoothing in [0, 1) and weight_decay >= 0, got {self}."
            )

    def learning_rate_at(self, step: int, n_steps: int) -> float:
        """Learning rate of step 0, 1, … ``n_steps`` - 1."""
        done = (step + 0.5) / n_steps
        if done < self.warm_up:
            return self.learning_rate * done / self.warm_up
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - self.warm_up) / (1 - self.warm_up)))


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
    for name, clips in (("training", (waveforms, labels)), ("validation", validation)):
        if clips is not None:
            _check_clips(name, *clips)
    with _own_randomness(seed, network):
        run = _Run(network, front_end, (waveforms, labels), validation, recipe, seed)
        if checkpoint is not None and checkpoint.exists():
            run.resume(checkpoint)
        while run.epoch < recipe.epochs:
            run.train_epoch(checkpoint)
            run.validate()
            if checkpoint is not None:
                run.save(checkpoint)
            if progress is not None:
                progress(run.epoch, recipe.epochs, run.summary())
    return TrainingResult(_cpu_copy(run.kept), run.kept_epoch, run.curves)


class _Run:
    """A training under way: all that changes from step to step."""

    def __init__(
        self,
        network: nn.Module,
        front_end: FrontEnd,
        train: Clips,
        validation: Clips | None,
        recipe: TrainingRecipe,
        seed: int,
    ) -> None:
        self.recipe = recipe
        self.front_end = front_end
        self.device = next(network.parameters()).device
        self.generator = torch.Generator().manual_seed(seed)
        self.network = _initialised(network)
        self.average = copy.deepcopy(self.network).eval()
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.epoch, self.step = 0, 0
        self.curves = Curves()
        self.kept: dict[str, Tensor] = {}
        self.kept_epoch = 0
        self._take_data(train, validation)
        self.key = _identity(recipe, seed, front_end, self.network, train, validation)

    def _take_data(self, train: Clips, validation: Clips | None) -> None:
        self.waveforms, labels = train
        self.steps_per_epoch = math.ceil(len(labels) / self.recipe.batch_size)
        self.silence = _features(self.front_end, torch.zeros_like(self.waveforms[:1]), self.device)
        with torch.no_grad():
            n_classes = self.average(self.silence).shape[1]
        for name, clips in (("training", train), ("validation", validation)):
            if clips is not None:
                _check_labels(name, clips[1], n_classes)
        self.targets = functional.one_hot(labels, n_classes).to(torch.float32)
        self.fixed = None
        if self.recipe.augmentation is None:
            self.fixed = _features(self.front_end, self.waveforms, self.device)
        self.held_out = None
        if validation is not None:
            self.held_out = (_features(self.front_end, validation[0], self.device), validation[1].to(self.device))

    def train_epoch(self, checkpoint: Path | None) -> None:
        """One pass over the clips in a new order; ``checkpoint`` is for the error message."""
        # Dropout draws from PyTorch's own generator: seeded here, it needs no place in the checkpoint.
        torch.manual_seed(int(torch.randint(2**62, (), generator=self.generator)))
        self.network.train()
        total = 0.0
        order = torch.randperm(len(self.targets), generator=self.generator)
        for rows in order.split(self.recipe.batch_size):
            features, targets = self._batch(rows)
            loss = functional.cross_entropy(
                self.network(features), targets, label_smoothing=self.recipe.label_smoothing
            )
            self._check_finite(loss.item(), checkpoint)
            self._descend(loss)
            total += loss.item() * len(rows)
        self.epoch += 1
        self.curves.train_loss.append(total / len(self.targets))
        size = sum(float(value.abs().sum()) for value in self.average.state_dict().values())
        self._check_finite(size, checkpoint)

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and targets of these clips, augmented."""
        augmentation = self.recipe.augmentation
        if augmentation is None or self.fixed is not None:
            assert self.fixed is not None
            return self.fixed[rows.to(self.device)], self.targets[rows].to(self.device)
        waveforms, targets = augment_waveforms(self.waveforms[rows], self.targets[rows], augmentation, self.generator)
        features = _features(self.front_end, waveforms, self.device)
        return drop_regions(features, self.silence, augmentation, self.generator), targets.to(self.device)

    def _descend(self, loss: Tensor) -> None:
        """One step of the optimiser, and of the average behind it."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step, self.steps_per_epoch * self.recipe.epochs)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.step += 1
        weight = 1 / min(self.step, self.recipe.averaging_steps)
        for mean, value in zip(
            self.average.state_dict().values(), self.network.state_dict().values(), strict=True
        ):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    def validate(self) -> None:
        """Measure the averaged weights, and keep them if they are the best so far."""
        best = True
        if self.held_out is not None:
            features, labels = self.held_out
            with torch.no_grad():
                logits = torch.cat([self.average(chunk) for chunk in features.split(_CHUNK)])
            loss = functional.cross_entropy(logits, labels).item()
            self.curves.validation_loss.append(loss)
            self.curves.validation_accuracy.append((logits.argmax(1) == labels).float().mean().item())
            best = loss <= min(self.curves.validation_loss)
        if best:
            self.kept = _cpu_copy(self.average.state_dict())
            self.kept_epoch = self.epoch

    def summary(self) -> str:
        """One line on the epoch that has just ended."""
        text = f"loss {self.curves.train_loss[-1]:.3f}"
        if self.curves.validation_loss:
            accuracy, loss = self.curves.validation_accuracy[-1], self.curves.validation_loss[-1]
            text += f", validation {100 * accuracy:.1f} % (loss {loss:.3f})"
        return text

    def save(self, path: Path) -> None:
        """Write everything to a checkpoint, atomically."""
        tensors = {"generator": self.generator.get_state()}
        for prefix, state in (
            ("network", self.network.state_dict()),
            ("average", self.average.state_dict()),
            ("kept", self.kept),
            ("optimiser", _flat(self.optimiser.state_dict()["state"])),
        ):
            tensors |= {f"{prefix}.{name}": value for name, value in state.items()}
        progress = {"epoch": self.epoch, "step": self.step, "kept_epoch": self.kept_epoch}
        save_tensors(path, tensors, {"training": self.key, **progress, "curves": asdict(self.curves)})

    def resume(self, path: Path) -> None:
        """Take up a checkpoint."""
        tensors, document = load_tensors(path)
        if document.get("training") != self.key:
            raise CheckpointError(
                f"{path} is of another training (other recipe, seed, data, front end or network). "
                "Choose another path, or remove it to start again."
            )
        self.generator.set_state(tensors["generator"])
        self.network.load_state_dict(_under("network", tensors))
        self.average.load_state_dict(_under("average", tensors))
        self.kept = _under("kept", tensors)
        optimiser = self.optimiser.state_dict()
        self.optimiser.load_state_dict({**optimiser, "state": _nested(_under("optimiser", tensors))})
        self.epoch, self.step = document["epoch"], document["step"]
        self.kept_epoch = document["kept_epoch"]
        self.curves = Curves(**document["curves"])

    def _check_finite(self, value: float, checkpoint: Path | None) -> None:
        if math.isfinite(value):
            return
        hint = "Nothing was kept: give a checkpoint path to keep each epoch."
        if checkpoint is not None:
            hint = f"{checkpoint} holds the last good epoch." if checkpoint.exists() else "There is no good epoch yet."
        raise ClassifierError(
            f"Training diverged in epoch {self.epoch + 1} of {self.recipe.epochs}, step {self.step + 1}: the loss or a "
            f"weight is {value}. {hint} Lower the learning rate (now {self.recipe.learning_rate} at its peak)."
        )


@contextmanager
def _own_randomness(seed: int, network: nn.Module) -> Iterator[None]:
    """Seed PyTorch's own generators (initial weights, dropout), and put them back."""
    devices = {parameter.device for parameter in network.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield


def _initialised(network: nn.Module) -> nn.Module:
    network = copy.deepcopy(network)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return network.requires_grad_(True)


def _features(front_end: FrontEnd, waveforms: Tensor, device: torch.device) -> Tensor:
    with torch.no_grad():
        return torch.cat([front_end(chunk.to(device)) for chunk in waveforms.split(_CHUNK)])


def _identity(
    recipe: TrainingRecipe,
    seed: int,
    front_end: FrontEnd,
    network: nn.Module,
    train: Clips,
    validation: Clips | None,
) -> str:
    """Digest of all that decides the weights; a checkpoint of another training is not taken up."""
    data = [*train, *(validation or ())]
    return digest_of(
        {
            "recipe": asdict(recipe),
            "seed": seed,
            "front_end": front_end.describe(),
            "network": str(network),
            "data": [[list(tensor.shape), _sha256(tensor)] for tensor in data],
        }
    )


def _sha256(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy()).hexdigest()


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


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _check_clips(name: str, waveforms: Tensor, labels: Tensor) -> None:
    if len(waveforms) == 0:
        raise DatasetError(f"There are no {name} clips. Which folds, or which split, were asked for?")
    if waveforms.ndim != 2 or waveforms.dtype != torch.float32:
        shape = tuple(waveforms.shape)
        raise AudioError(f"Expected {name} waveforms (N, T) of torch.float32, got {shape} of {waveforms.dtype}.")
    if labels.shape != waveforms.shape[:1] or labels.dtype != torch.int64:
        raise DatasetError(
            f"Expected one label for each of {len(waveforms)} {name} clips, as torch.int64, "
            f"got {tuple(labels.shape)} of {labels.dtype}."
        )
    broken = (~waveforms.isfinite().all(1)).nonzero().flatten().tolist()
    if broken:
        raise AudioError(f"{len(broken)} {name} clips hold NaN or infinity (first: number {broken[0]}). Leave them out.")


def _check_labels(name: str, labels: Tensor, n_classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise DatasetError(
            f"{name.capitalize()} labels run from {low} to {high}, but the network has {n_classes} outputs, "
            f"0 to {n_classes - 1}. Do labels and network belong together?"
        )
