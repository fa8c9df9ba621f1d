"""What any convolutional classifier has in its deepest blocks while it listens, as maps over the whole clip.

B rows, C channels, H rows (frequency) and W columns (time) of a hidden map, P patches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier, Segmenter
from earwitness.errors import ClassifierError, ConfigurationError, NotApplicableError

_ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Softplus,
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_POOLING = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.LPPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
)


@dataclass(frozen=True, eq=False)
class HiddenMaps:
    """Hidden maps of a batch, and what the classifier says to it.

    Attributes
    ----------
    maps : tuple of Tensor (B, C, H, W), float32
        In the order in which they are computed; frequency before time, from the clip's start to its end. Maps of a
        network without a frequency axis have H = 1.
    logits : Tensor (B, classes), float32
    """

    maps: tuple[Tensor, ...]
    logits: Tensor


def check_layer_names(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Different names of layers, or None; else ConfigurationError."""
    if names is None:
        return None
    fit = not isinstance(names, str) and all(isinstance(name, str) and name for name in names)
    if not fit or not names or len(set(names)) != len(names):
        raise ConfigurationError(f"layers must be different names of layers in a list, or left out; got {names!r}.")
    return tuple(names)


def deepest_layers(classifier: AudioClassifier, features: Tensor, count: int) -> tuple[str, ...]:
    """The last activated map before each of the last changes of resolution, and the last one of all.

    A map is activated where an activation made it: behind the ReLU, and before the pooling. Networks with fewer than
    ``count`` resolutions give their last maps of any.

    Parameters
    ----------
    classifier : AudioClassifier
    features : Tensor (1, 1, M, N') or (1, 1, T)
        Of a recording, to see what runs.
    count : int
        The most layers.

    Returns
    -------
    tuple of at least one str
        In the order in which they run.

    Raises
    ------
    NotApplicableError
        The network has no map over time that an activation made.
    """
    maps = _activated_maps(classifier, features)
    names = [name for name, _ in maps]
    if not names:
        raise NotApplicableError(
            f"{classifier.name} has no hidden map over time behind an activation: its layers have no spatial shape. "
            'Name layers that have one, layers=["…"], or use a method that needs no convolution.'
        )
    chosen = [list(block)[-1][0] for _, block in groupby(maps, key=lambda found: found[1])][-count:]
    others = [name for name in names if name not in chosen]
    chosen += others[len(others) - min(len(others), count - len(chosen)) :]
    return tuple(sorted(chosen, key=names.index))


@torch.no_grad()
def hidden_maps(
    classifier: AudioClassifier, features: Tensor, layers: Sequence[str], *, least_cells: int = 1
) -> HiddenMaps:
    """Run the classifier and keep what it has in some layers.

    Parameters
    ----------
    classifier : AudioClassifier
    features : Tensor (B, 1, M, N') or (B, 1, T)
    layers : sequence of str
        In any order.
    least_cells : int
        Of a map. 2, where layers are chosen, refuses one that says a single thing of a whole clip; later a short clip
        may leave no more.

    Raises
    ------
    ClassifierError
        There is no such layer, or it does not run exactly once.
    NotApplicableError
        A layer has no time axis, or the classifier's patches are no stretches of its feature map.
    """
    with classifier.taps(layers) as taps:
        logits = classifier.logits_of_features(features)
        outputs = dict(taps)
    missing = [name for name in layers if name not in outputs]
    if missing:
        raise ClassifierError(f"The layer {missing[0]!r} of {classifier.name} does not run. Name another.")
    for name, output in outputs.items():
        if output.ndim not in (3, 4) or output.shape[2:].numel() < least_cells:
            raise NotApplicableError(
                f"The layer {name!r} of {classifier.name} gives {tuple(output.shape[1:])} for a clip, which has no "
                "spatial shape. Name a layer with a map over time, such as a convolution's activation."
            )
    maps = [output.detach().float() for output in outputs.values()]
    maps = [output[:, :, None] if output.ndim == 3 else output for output in maps]
    if classifier.segmenter is not None:
        patches = _Patches.of(classifier.name, classifier.segmenter, features[:1])
        maps = [patches.joined(output) for output in maps]
    return HiddenMaps(tuple(maps), logits.float())


@dataclass(eq=False)
class _Watch:
    """What is seen of a forward pass: maps, each with the names of the layers that returned it, innermost first."""

    maps: list[tuple[Tensor, list[str]]] = field(default_factory=list)
    activated: list[Tensor] = field(default_factory=list)
    pooled: list[Tensor] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)

    def forget(self, *_: object) -> None:
        self.maps.clear()
        self.activated.clear()
        self.pooled.clear()
        self.runs.clear()

    def hook(self, name: str) -> Callable[[nn.Module, object, object], None]:
        def look(module: nn.Module, _inputs: object, output: object) -> None:
            self.runs[name] += 1
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            if isinstance(module, _ACTIVATIONS):
                self.activated.append(output)
            if isinstance(module, _POOLING):
                self.pooled.append(output)
            if output.ndim in (3, 4) and max(output.shape[2:]) > 1 and self._is_activated(module, output):
                if self.maps and self.maps[-1][0] is output:
                    self.maps[-1][1].append(name)
                else:
                    self.maps.append((output, [name]))

        return look

    def _is_activated(self, module: nn.Module, output: Tensor) -> bool:
        if isinstance(module, _ACTIVATIONS):
            return True
        if not any(isinstance(part, _CONVOLUTIONS) for part in module.modules()):
            return False
        if _among(output, self.pooled):  # of a container that ends in a pooling
            return False
        # A block may hand on its activation's output, or end in a functional ReLU.
        rectified = bool((output >= 0).all()) and bool((output == 0).any())
        return rectified or _among(output, self.activated)


def _among(output: Tensor, others: list[Tensor]) -> bool:
    return any(output is other for other in others)


def _activated_maps(classifier: AudioClassifier, features: Tensor) -> list[tuple[str, torch.Size]]:
    """Names and (rows, columns) of the maps that an activation made, in the order in which they are made."""
    watch = _Watch()
    modules = [(name, module) for name, module in classifier.network.named_modules() if name]
    handles = [module.register_forward_hook(watch.hook(name)) for name, module in modules]
    # A classifier's first pass may be preceded by one that tries its network: look at the last one only.
    handles.append(classifier.network.register_forward_pre_hook(watch.forget))
    try:
        with torch.no_grad():
            classifier.logits_of_features(features)
    finally:
        for handle in handles:
            handle.remove()
    once = [([name for name in names if watch.runs[name] == 1], output.shape[2:]) for output, names in watch.maps]
    return [(names[0], shape) for names, shape in once if names]


@dataclass(frozen=True, eq=False)
class _Patches:
    """Where a segmenter cuts.

    Attributes
    ----------
    starts : Tensor (P,), float64
        First frame of each patch.
    n_frames : int
        Of each patch.
    n_columns : int
        Of the whole feature map.
    time_first : bool
        Whether a patch has time before frequency.
    """

    starts: Tensor
    n_frames: int
    n_columns: int
    time_first: bool

    @classmethod
    def of(cls, name: str, segmenter: Segmenter, features: Tensor) -> _Patches:
        """Find out, by having the frames' numbers cut in place of the features (1, 1, M, N')."""
        numbers = torch.arange(features.shape[-1], device=features.device, dtype=features.dtype)
        patches = segmenter(numbers.expand(features.shape))
        if features.ndim == 4 and patches.ndim == 5:
            for time_first, cut in ((False, patches[0, :, 0]), (True, patches[0, :, 0].transpose(1, 2))):
                steps = torch.arange(cut.shape[2], device=cut.device, dtype=cut.dtype)
                if torch.equal(cut, (cut[:, :1, :1] + steps).expand(cut.shape)):
                    return cls(cut[:, 0, 0].double().cpu(), cut.shape[2], len(numbers), time_first)
        raise NotApplicableError(
            f"Maps of patches are joined along time, so patches must be stretches of the feature map, "
            f"(B, P, 1, rows, columns) in either order; {name} makes patches of shape {tuple(patches.shape)}."
        )

    def joined(self, maps: Tensor) -> Tensor:
        """Maps of all patches (B·P, C, H, W) as one over the clip (B, C, H, W'): each column is the mean of what lies
        in its time, and zero where no patch lies."""
        maps = maps.transpose(2, 3) if self.time_first else maps
        maps = maps.reshape(-1, len(self.starts), *maps.shape[1:])
        return torch.einsum("bpchj,pjn->bchn", maps, self._shares(maps.shape[4]).to(maps))

    def _shares(self, n_own: int) -> Tensor:
        """What each patch's columns contribute to those of the whole: Tensor (P, n_own, W'), float64."""
        step = self.n_frames / n_own
        n_joined = max(1, round(self.n_columns / step))
        edges = torch.arange(n_joined + 1, dtype=torch.float64) * (self.n_columns / n_joined)
        begin = self.starts[:, None, None] + step * torch.arange(n_own, dtype=torch.float64)[:, None]
        overlap = (torch.minimum(begin + step, edges[1:]) - torch.maximum(begin, edges[:-1])).clamp_min(0)
        total = overlap.sum((0, 1))
        return overlap / torch.where(total > 0, total, 1)
