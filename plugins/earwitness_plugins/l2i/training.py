"""Training the interpreter: Adam, the epoch of least validation loss, and checkpoints from which it goes on as before.

On the CPU, equal seed, data and thread count give equal weights, to the last bit, in one go or resumed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.random import stream_seed
from earwitness_plugins.l2i.interpreter import Interpretation, Interpreter, Sizes
from earwitness_plugins.l2i.losses import LossWeights, fidelity_loss, reconstruction_loss, sparsity_loss
from earwitness_plugins.l2i.material import Material, Rows

MEASURES = ("fidelity", "reconstruction", "sparsity", "top-1")
"""The three losses, and the share of clips whose most probable class is the classifier's."""


@dataclass(frozen=True)
class Recipe:
    """How the interpreter is trained.

    Attributes
    ----------
    epochs : int
    batch_size : int
        Clips per step.
    learning_rate : float
        Of Adam.
    weights : LossWeights
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weights: LossWeights


class Training:
    """A training under way.

    Parameters
    ----------
    sizes : Sizes
    recipe : Recipe
    train : Material
    validation : Material, optional
        Decides which epoch's weights are kept; without it, the last one's are.
    seed : int
        Of all that is random: initial weights, order of clips, dropout. PyTorch's own generator is put back as it was.
    """

    def __init__(self, sizes: Sizes, recipe: Recipe, train: Material, validation: Material | None, seed: int) -> None:
        self.recipe = recipe
        self.train, self.validation = train, validation
        self.seed = seed
        self.epoch, self.kept_epoch = 0, 0
        device = train.patterns.device
        with _own_randomness(stream_seed(seed, "l2i-weights"), device):
            self.interpreter = Interpreter(sizes).to(device)
        self.optimiser = torch.optim.Adam(self.interpreter.parameters(), lr=recipe.learning_rate)
        self.gram = train.patterns.T @ train.patterns
        self.kept: dict[str, Tensor] = {}
        self.curves: dict[str, list[float]] = {
            f"{split} {name}": []
            for split in ("train", *(() if validation is None else ("validation",)))
            for name in MEASURES
        }

    def next_epoch(self) -> None:
        """One pass over the clips; then measure, and keep what is best.

        Raises
        ------
        ConfigurationError
            The loss, or a weight, is no longer finite.
        """
        number = self.epoch + 1
        with _own_randomness(stream_seed(self.seed, "l2i-epoch", number), self.train.patterns.device):
            chunks = self.train.chunks(self.recipe.batch_size, seed=stream_seed(self.seed, "l2i-order", number))
            order = torch.randperm(len(chunks)).tolist()
            self._note("train", [self._step(self.train.batch(chunks[place]), number) for place in order])
        self._check_finite(sum(float(value.abs().sum()) for value in self.interpreter.state_dict().values()))
        best = True
        if self.validation is not None:
            batches = self.validation.chunks(self.recipe.batch_size)
            self._note("validation", [self._measure(self.validation.batch(chunk), number) for chunk in batches])
            losses = self.curves["validation fidelity"]
            best = losses[-1] <= min(losses)
        self.epoch = number
        if best:
            self.kept_epoch = number
            self.kept = {name: value.clone() for name, value in self.interpreter.state_dict().items()}

    def summary(self) -> str:
        """One line on the epoch that has just ended."""
        split = "train" if self.validation is None else "validation"
        last = {name: self.curves[f"{split} {name}"][-1] for name in MEASURES}
        return (
            f"{split}: fidelity {last['fidelity']:.3f} ({100 * last['top-1']:.0f} % top-1), reconstruction "
            f"{last['reconstruction']:.4f}"
        )

    def tensors(self) -> dict[str, Tensor]:
        """All that the next epoch depends on."""
        moments = {
            f"adam/{name}/{key}": value
            for name, parameter in self.interpreter.named_parameters()
            for key, value in self.optimiser.state[parameter].items()
        }
        weights = {f"weights/{name}": value for name, value in self.interpreter.state_dict().items()}
        kept = {f"kept/{name}": value for name, value in self.kept.items()}
        counts = {"epochs": torch.tensor([self.epoch, self.kept_epoch])}
        return {**weights, **moments, **kept, **counts, **curve_tensors(self.curves)}

    def resume(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what :meth:`tensors` gave.

        Raises
        ------
        CheckpointError
            They are of another interpreter.
        """
        try:
            device = self.train.patterns.device
            self.interpreter.load_state_dict(part_of(tensors, "weights/"))
            self.kept = {name: value.to(device) for name, value in part_of(tensors, "kept/").items()}
            for name, parameter in self.interpreter.named_parameters():
                own = part_of(tensors, f"adam/{name}/")
                self.optimiser.state[parameter] = {
                    # Adam counts its steps on the CPU.
                    key: value if key == "step" else value.to(device)
                    for key, value in own.items()
                }
            self.epoch, self.kept_epoch = tensors["epochs"].tolist()
            self.curves = curves_of(tensors)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"The checkpoint is of another interpreter: {error}. Remove it.") from error

    def _step(self, rows: Rows, epoch: int) -> tuple[int, dict[str, float]]:
        self.interpreter.train()
        loss, measured = self._losses(rows, epoch)
        self._check_finite(loss.item())
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return measured

    def _check_finite(self, value: float) -> None:
        if not math.isfinite(value):
            raise ConfigurationError(
                f"l2i diverged in epoch {self.epoch + 1} of {self.recipe.epochs}: the loss, or a weight, is {value}. "
                f"Lower learning_rate (now {self.recipe.learning_rate}), and give another --out."
            )

    @torch.no_grad()
    def _measure(self, rows: Rows, epoch: int) -> tuple[int, dict[str, float]]:
        self.interpreter.eval()
        return self._losses(rows, epoch)[1]

    def _losses(self, rows: Rows, epoch: int) -> tuple[Tensor, tuple[int, dict[str, float]]]:
        found: Interpretation = self.interpreter(rows.maps, rows.projections.shape[2])
        multilabel, n_bins = self.train.classifier.multilabel, self.train.patterns.shape[0]
        fidelity = fidelity_loss(found.logits, rows.probabilities, multilabel=multilabel)
        reconstruction = reconstruction_loss(found.activations, rows.projections, self.gram, rows.energy, n_bins)
        sparsity = sparsity_loss(found.activations)
        same = (found.logits.argmax(1) == rows.probabilities.argmax(1)).double().mean()
        values = (float(value.detach()) for value in (fidelity, reconstruction, sparsity, same))
        n_decisions = rows.probabilities.shape[1] if multilabel else 1
        total = self.recipe.weights.total(fidelity, reconstruction, sparsity, epoch=epoch, n_decisions=n_decisions)
        return total, (len(rows.energy), dict(zip(MEASURES, values, strict=True)))

    def _note(self, split: str, measured: list[tuple[int, dict[str, float]]]) -> None:
        """Means over clips."""
        n_clips = sum(count for count, _ in measured)
        for name in MEASURES:
            mean = sum(count * values[name] for count, values in measured) / n_clips
            self.curves[f"{split} {name}"].append(mean)


def curve_tensors(curves: Mapping[str, list[float]]) -> dict[str, Tensor]:
    """Curves as float64 tensors (epochs,), under ``curves/…``."""
    return {f"curves/{name}": torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}


def curves_of(tensors: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The inverse of :func:`curve_tensors`, from among other tensors."""
    return {name: values.tolist() for name, values in part_of(tensors, "curves/").items()}


def part_of(tensors: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


@contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's own generators (initial weights, order, dropout), and put them back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
