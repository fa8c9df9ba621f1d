"""Training an audio prototype network: seeded, resumable, selected by accuracy on the validation clips.

The optimiser is Adam as Keras has it, which adds epsilon to √v before the bias is corrected: PyTorch's with an epsilon
of 1e-7 / √(1 - β₂ᵗ) at step t. What is validated and kept is the network at the end of an epoch or, where the recipe
asks for it, the running average of its weights. On the CPU, equal seed, data and thread count give equal weights, in
one go or resumed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from earwitness.errors import ClassifierError
from earwitness.fitting import Workspace
from earwitness.pooling import logit_of_mean_probability
from earwitness.protocols import Progress
from earwitness_plugins.apnet.configuration import Recipe
from earwitness_plugins.apnet.front_end import Windows
from earwitness_plugins.apnet.network import AudioPrototypeNetwork
from earwitness_plugins.apnet.objective import losses, normalise_frequency_weights
from earwitness_plugins.classifiers.descent import follow
from earwitness_plugins.classifiers.training_data import TrainingData

_EPSILON = 1e-7
_CHUNK = 16


@dataclass(frozen=True)
class Curves:
    """What was measured in each epoch.

    Attributes
    ----------
    loss, classification, reconstruction, prototype : list of float
        Means over the epoch's clips, while weights were changing; see :class:`~.objective.Losses`.
    validation_accuracy : list of float, in [0, 1]
        Of clips; empty without validation clips.
    """

    loss: list[float] = field(default_factory=list)
    classification: list[float] = field(default_factory=list)
    reconstruction: list[float] = field(default_factory=list)
    prototype: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained network's weights.

    Attributes
    ----------
    state_dict : dict of Tensor
        On the CPU.
    epoch : int
        The epoch that they were taken after, from 1: the first of the best validation accuracy, or the last.
    curves : Curves
    """

    state_dict: dict[str, Tensor]
    epoch: int
    curves: Curves


def train_network(
    network: AudioPrototypeNetwork,
    data: TrainingData,
    windows: Windows,
    *,
    recipe: Recipe,
    seed: int,
    validation: tuple[Tensor, Tensor] | None,
    workspace: Workspace,
    progress: Progress,
) -> TrainingResult:
    """Train a network on from where it is.

    Parameters
    ----------
    network : AudioPrototypeNetwork
        Initialised, or refined; changed in place.
    data : TrainingData
        Clips as batches of features.
    windows : Windows
        What the network sees of a clip; all windows of a clip have its class.
    recipe : Recipe
    seed : int
        Of the order of clips and of their augmentation.
    validation : (features (N, 1, F, N'), classes (N,)), optional
        On the network's device. They decide which epoch's weights are kept, and when to stop.
    workspace : Workspace
        Gets a checkpoint after each epoch; training that finds one goes on from there and ends as it would have in one
        go.
    progress : callable (epochs done, epochs in all, text)

    Returns
    -------
    TrainingResult

    Raises
    ------
    ClassifierError
        A loss is no longer finite. The workspace holds the last epoch before.
    CheckpointError
        The checkpoint is damaged, or of another training.
    """
    run = _Run(network, data, windows, recipe, seed, validation, workspace)
    run.resume()
    while not run.finished:
        run.next_epoch()
        progress(run.epoch, recipe.epochs, run.summary())
    return TrainingResult(run.kept, run.kept_epoch, run.curves)


def keras_step(optimiser: torch.optim.Adam, step: int) -> None:
    """Step number ``step``, from 1, of Adam in Keras' form."""
    for group in optimiser.param_groups:
        group["eps"] = _EPSILON / math.sqrt(1 - group["betas"][1] ** step)
    optimiser.step()


@torch.no_grad()
def accuracy(network: AudioPrototypeNetwork, features: Tensor, classes: Tensor, windows: Windows) -> float:
    """Share of clips, in [0, 1], whose class has the largest sum of probabilities over the windows.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    features : Tensor (N, 1, F, N')
    classes : Tensor (N,), int64
    windows : Windows

    Raises
    ------
    ClassifierError
        Logits are NaN: none of them is the largest.
    """
    right = 0
    for maps, own in zip(torch.split(features, _CHUNK), torch.split(classes, _CHUNK), strict=True):
        pieces = windows(maps)
        logits = network(pieces.flatten(0, 1)).reshape(*pieces.shape[:2], -1)
        if bool(logits.isnan().any()):
            raise ClassifierError(
                "The network says NaN to validation clips: its distances overflow. Lower the learning rate."
            )
        right += int((logit_of_mean_probability(logits, multilabel=False).argmax(1) == own).sum())
    return right / len(classes)


class _Run:
    """A training under way: all that changes from step to step, and how it is kept."""

    def __init__(
        self,
        network: AudioPrototypeNetwork,
        data: TrainingData,
        windows: Windows,
        recipe: Recipe,
        seed: int,
        validation: tuple[Tensor, Tensor] | None,
        workspace: Workspace,
    ) -> None:
        self.network = network.train().requires_grad_(True)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU
        self.average = copy.deepcopy(network).requires_grad_(False) if recipe.averaging_steps > 1 else network
        self.data = data
        self.windows = windows
        self.recipe = recipe
        self.validation = validation
        self.workspace = workspace
        self.generator = torch.Generator().manual_seed(seed)
        self.optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
        self.n_classes = network.sizes.n_classes
        self.steps_per_epoch = math.ceil(len(data) / recipe.batch_size)
        self.epoch, self.step, self.kept_epoch = 0, 0, 0
        self.kept: dict[str, Tensor] = {}
        self.curves = Curves()

    @property
    def finished(self) -> bool:
        waited = self.epoch - self.kept_epoch
        return self.epoch >= self.recipe.epochs or (self.validation is not None and waited >= self.recipe.patience)

    def next_epoch(self) -> None:
        """One pass over the clips; then measure, keep the best, and write the checkpoint."""
        sums = [0.0] * 4
        for rows in torch.split(torch.randperm(len(self.data), generator=self.generator), self.recipe.batch_size):
            measured = self._descend(rows)
            sums = [so_far + value * len(rows) for so_far, value in zip(sums, measured, strict=True)]
        self._check_finite(sum(float(value.abs().sum()) for value in self.network.state_dict().values()))
        curves = self.curves
        for curve, total in zip(
            (curves.loss, curves.classification, curves.reconstruction, curves.prototype), sums, strict=True
        ):
            curve.append(total / len(self.data))
        self.epoch += 1
        if self._is_best():
            self.kept = {name: value.detach().cpu().clone() for name, value in self.average.state_dict().items()}
            self.kept_epoch = self.epoch
        self._save()

    def _descend(self, rows: Tensor) -> list[float]:
        """One step; returns total, classification, reconstruction and prototype loss."""
        features, targets = self.data.batch(rows, self.n_classes, self.generator)
        pieces = self._heard(self.windows(features))
        inputs = pieces.flatten(0, 1)
        each = losses(self.network.outputs(inputs), inputs, targets.repeat_interleave(pieces.shape[1], 0))
        total = each.total(self.recipe)
        measured = torch.stack([total, each.classification, each.reconstruction, each.prototype]).tolist()
        self._check_finite(measured[0], inputs)
        self.optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step, self.steps_per_epoch)
        self.step += 1
        keras_step(self.optimiser, self.step)
        if self.recipe.unit_norm:
            normalise_frequency_weights(self.network)
        if self.average is not self.network:
            follow(self.average, self.network, steps_taken=self.step, memory=self.recipe.averaging_steps)
        return measured

    def _heard(self, pieces: Tensor) -> Tensor:
        """Of windows (B, P, 1, F, W) those of a step: all, or a random one of each clip."""
        if self.recipe.windows == "all":
            return pieces
        chosen = torch.randint(pieces.shape[1], (len(pieces), 1), generator=self.generator).to(pieces.device)
        return torch.take_along_dim(pieces, chosen[:, :, None, None, None], dim=1)

    def _is_best(self) -> bool:
        if self.validation is None:
            return True
        scores = self.curves.validation_accuracy
        scores.append(accuracy(self.average, *self.validation, self.windows))
        return len(scores) == 1 or scores[-1] > max(scores[:-1])

    def summary(self) -> str:
        """One line on the epoch that has just ended."""
        text = f"loss {self.curves.loss[-1]:.3f}"
        if self.curves.validation_accuracy:
            text += f", validation {100 * self.curves.validation_accuracy[-1]:.1f} %"
        return text

    def _save(self) -> None:
        states: dict[str, Mapping[str, Tensor]] = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not self.network else {},
            "kept": self.kept,
            "optimiser": _moments(self.optimiser),
            "generator": {"state": self.generator.get_state()},
        }
        tensors = {f"{part}/{name}": value for part, state in states.items() for name, value in state.items()}
        counts = {"epoch": self.epoch, "step": self.step, "kept_epoch": self.kept_epoch}
        self.workspace.save_checkpoint(tensors, counts=counts, curves=asdict(self.curves))

    def resume(self) -> None:
        """Take up the workspace's checkpoint, if there is one."""
        found = self.workspace.load_checkpoint()
        if found is None:
            return
        tensors, document = found
        self.network.load_state_dict(_part("network", tensors))
        if self.average is not self.network:
            self.average.load_state_dict(_part("average", tensors))
        self.kept = _part("kept", tensors)
        _set_moments(self.optimiser, _part("optimiser", tensors))
        self.generator.set_state(tensors["generator/state"])
        counts = document["counts"]
        self.epoch, self.step, self.kept_epoch = counts["epoch"], counts["step"], counts["kept_epoch"]
        self.curves = Curves(**document["curves"])

    def _check_finite(self, value: float, inputs: Tensor | None = None) -> None:
        if math.isfinite(value):
            return
        if inputs is not None and not bool(inputs.isfinite().all()):
            hint = "The features of a clip are NaN or infinite: are all samples in [-1, 1]?"
        elif self.step:
            hint = f"Lower the learning rate (now {self.recipe.learning_rate})."
        else:
            hint = "No step was taken, so the weights that it began with are too large."
        kept = "The last good epoch is kept" if self.epoch else "There was no good epoch yet"
        raise ClassifierError(
            f"Training diverged in epoch {self.epoch + 1} of {self.recipe.epochs}, after {self.step} steps: a loss or "
            f"a weight is {value}. {kept} in {self.workspace.folder}. {hint}"
        )


def _part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with ``name/``, without it."""
    start = f"{name}/"
    return {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}


def _moments(optimiser: torch.optim.Adam) -> dict[str, Tensor]:
    states: Mapping[int, Mapping[str, Tensor]] = optimiser.state_dict()["state"]
    return {f"{number}.{name}": value for number, state in states.items() for name, value in state.items()}


def _set_moments(optimiser: torch.optim.Adam, moments: Mapping[str, Tensor]) -> None:
    states: dict[int, dict[str, Any]] = {}
    for path, value in moments.items():
        number, name = path.split(".")
        states.setdefault(int(number), {})[name] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
