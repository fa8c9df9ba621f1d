"""A classifier as the host sees it: from waveforms to logits, every stage at hand.

::

    waveform ──▶ front end ──▶ features ──▶ segmenter ──▶ network ──▶ pool ──▶ logits
     (B, T)                    (B,1,M,N')   (B·P, …)                           (B, C)
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from earwitness.artifacts import digest_of
from earwitness.audio.front_end import FrontEnd
from earwitness.audio.stft import ListeningSTFT
from earwitness.errors import AudioError, ClassifierError, ConfigurationError, nearest
from earwitness.folding import Folded, normalised_layers, prepared
from earwitness.grid import Grid
from earwitness.identity import digest_of_tensors, identity_of, identity_of_architecture, tensors_of
from earwitness.outputs import check_logits, check_shape
from earwitness.pooling import POOLS, PoolName

Segmenter = Callable[[Tensor], Tensor]
"""Features (B, 1, M, N') -> patches (B, P, ...), what the network eats along the last axes."""

Precision = Literal["float32", "bfloat16"]

_GRIDS_KEPT = 32
_T = TypeVar("_T")


class AudioClassifier:
    """A network together with everything between the waveform and its logits.

    Every module is copied: the user's own keeps its mode, parameters, hooks and ``requires_grad``, whatever happens
    later. Train first, wrap afterwards.

    Parameters
    ----------
    network : nn.Module
        Takes features (or patches), returns **logits** (B, C).
    front_end : FrontEnd
        Waveforms (B, T) to features (B, 1, M, N'), differentiable; or identity for networks that eat samples.
    labels : sequence of str, length C
        Class names, in the order of the outputs.
    segmenter : callable, optional
        Features (B, 1, M, N') to patches (B, P, ...): a function, a ``functools.partial`` or a module.
    pool : {"logit_of_mean_probability", "max", "logsumexp", "mean"}
        From the patches' logits (B, P, C) to the clip's.
    multilabel : bool
        Probabilities by sigmoid per class instead of softmax.
    duration_s : float, optional
        The fixed length that the network takes, in seconds. Default: any.
    name : str
        For reports.

    Raises
    ------
    ClassifierError
        No labels, labels twice, an unknown pool, a front end without the members of
        :class:`~earwitness.audio.front_end.FrontEnd`, or a network that cannot be copied.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        front_end: FrontEnd,
        labels: Sequence[str],
        segmenter: Segmenter | None = None,
        pool: PoolName = "logit_of_mean_probability",
        multilabel: bool = False,
        duration_s: float | None = None,
        name: str = "classifier",
    ) -> None:
        repeated = [label for label, count in Counter(labels).items() if count > 1]
        if not labels or repeated or isinstance(labels, str):
            wrong = f"these are there more than once: {repeated[:12]}" if repeated else f"got {labels!r}"
            raise ClassifierError(f"A classifier needs a sequence of labels, each once; {wrong}.")
        if pool not in POOLS:
            raise ClassifierError(f"There is no pool {pool!r}. {nearest(pool, POOLS)}")
        if not isinstance(network, nn.Module) or not isinstance(front_end, FrontEnd):
            raise ClassifierError(
                f"A classifier needs a torch.nn.Module and a front end (see earwitness.audio.front_end.FrontEnd), got "
                f"{type(network).__name__} and {type(front_end).__name__}."
            )
        if duration_s is not None and not duration_s > 0:
            raise ClassifierError(f"duration_s must be positive, or None for any length; got {duration_s}.")
        self.network = _frozen_copy(network)
        self.front_end = _frozen_copy(front_end)
        self.labels = tuple(labels)
        self.segmenter = _frozen_copy(segmenter)
        self.pool: PoolName = pool
        self.multilabel = multilabel
        self.duration_s = duration_s
        self.name = name
        self.precision: Precision = "float32"
        self._n_outputs = len(self.labels)
        self._regrouping: tuple[tuple[int, ...], ...] | None = None
        self._validated = False
        # Taken now: a network may note something in its attributes while it runs.
        self._architecture = [
            identity_of_architecture(self.network),
            [type(front_end).__qualname__, front_end.describe()],
            identity_of(self.segmenter),
        ]
        self._grids: dict[int, Grid | None] = {}

    @property
    def rate(self) -> int:
        """Sampling rate in Hz."""
        return self.front_end.rate

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        tensors = itertools.chain(self.network.parameters(), self.network.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    @property
    def min_samples(self) -> int:
        """The shortest recording in samples."""
        return self.front_end.min_samples

    @functools.cached_property
    def listening(self) -> ListeningSTFT:
        """The listening STFT for this classifier: its own STFT where that is one, else the default for its rate."""
        settings = self.front_end.describe()
        n_fft, hop_length = settings.get("n_fft", 0), settings.get("hop_length", 0)
        if n_fft and self.front_end.shares_stft(n_fft=n_fft, hop_length=hop_length, rate=self.rate):
            with contextlib.suppress(ConfigurationError):  # its hop is too long to come back from
                return ListeningSTFT(self.rate, n_fft, hop_length)
        return ListeningSTFT.for_rate(self.rate)

    def feature_grid(self, n_samples: int) -> Grid | None:
        """Hz and seconds of the feature map of ``n_samples``; None for networks that eat samples."""
        # The same object each time: what is computed from a pair of grids is cached by their identity.
        if n_samples not in self._grids:
            if len(self._grids) >= _GRIDS_KEPT:
                del self._grids[next(iter(self._grids))]
            self._grids[n_samples] = self.front_end.grid(n_samples)
        return self._grids[n_samples]

    def features(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, T), float32, at ``rate`` -> features (B, 1, M, N') (or (B, 1, T) for the identity)."""
        if waveforms.ndim != 2:
            raise AudioError(f"Expected waveforms of shape (B, T), got {tuple(waveforms.shape)}.")
        if waveforms.shape[1] < self.min_samples:
            raise AudioError(
                f"{self.name} needs at least {self.min_samples} samples ({self.min_samples / self.rate:.3f} s at "
                f"{self.rate} Hz), got {waveforms.shape[1]}. Give a longer recording."
            )
        return self.front_end(waveforms)

    def logits_of_features(self, features: Tensor) -> Tensor:
        """Features (B, 1, M, N') -> logits (B, C), differentiable.

        Raises
        ------
        ClassifierError
            The network returns something else than (B, C) logits, or the segmenter something else than patches.
        AudioError
            The segmenter makes no patch of so few frames.
        """
        if self.segmenter is None:
            logits = self._run(features)
        else:
            patches = self._patches(features, self.segmenter)
            outputs = self._run(patches.flatten(0, 1))
            logits = POOLS[self.pool](outputs.reshape(*patches.shape[:2], -1), multilabel=self.multilabel)
        if self._regrouping is not None:
            logits = torch.stack([logits[:, list(group)].amax(1) for group in self._regrouping], dim=1)
        return logits

    def logits(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, T), float32 -> logits (B, C), differentiable."""
        return self.logits_of_features(self.features(waveforms))

    def probabilities_of(self, logits: Tensor) -> Tensor:
        """Logits (B, C) -> probabilities (B, C): the one place where softmax or sigmoid happens."""
        return torch.sigmoid(logits) if self.multilabel else torch.softmax(logits, dim=1)

    def probabilities(self, waveforms: Tensor) -> Tensor:
        """Waveforms (B, T), float32 -> probabilities (B, C), without gradients."""
        with torch.no_grad():
            return self.probabilities_of(self.logits(waveforms))

    def target_of(self, label: str) -> int:
        """The index of a label.

        Raises
        ------
        ClassifierError
            The classifier does not know it.
        """
        if label not in self.labels:
            raise ClassifierError(f"{self.name} does not know the label {label!r}. {nearest(label, self.labels)}")
        return self.labels.index(label)

    def outputs_of(self, target: int) -> tuple[int, ...]:
        """The network's outputs whose largest is the logit of a class: one, or several in a regrouped classifier.

        Raises
        ------
        ClassifierError
            The target is no index of a label.
        """
        if not 0 <= target < len(self.labels):
            raise ClassifierError(
                f"The target must be an index into the {len(self.labels)} labels of {self.name}, got {target}."
            )
        return (target,) if self._regrouping is None else self._regrouping[target]

    def layer(self, name: str) -> nn.Module:
        """A module of the network by its dotted name.

        Raises
        ------
        ClassifierError
            There is none.
        """
        modules = dict(self.network.named_modules(remove_duplicate=False))
        if name not in modules or not name:
            raise ClassifierError(f"{self.name} has no layer {name!r}. {nearest(name, [n for n in modules if n])}")
        norm = normalised_layers(self.network).get(name)
        if norm is not None and isinstance(modules[norm], Folded):
            raise ClassifierError(
                f"The batch norm {norm!r} of {self.name} was folded into its layer {name!r}, for speed, so the output "
                f"of {name!r} alone is not there any more. Name {norm!r}, or use the classifier before prepare()."
            )
        layer: nn.Module = modules[name]
        return layer

    @contextlib.contextmanager
    def taps(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Record the outputs of hidden layers while the context is open.

        Gradients of the logits with respect to the recorded tensors can be taken, whether the input asks for its own or
        not; an in-place operation that follows does not change them.

        Parameters
        ----------
        names : sequence of str
            Dotted module names.

        Yields
        ------
        dict of str to Tensor
            Filled anew by each forward pass made inside.

        Raises
        ------
        ClassifierError
            There is no such layer; or, in the forward pass, it does not return one tensor, or runs more than once.
        """
        outputs: dict[str, Tensor] = {}
        handles = [self.network.register_forward_pre_hook(lambda _module, _inputs: outputs.clear())]
        try:
            for name in names:
                handles.append(self.layer(name).register_forward_hook(self._tap(name, outputs)))
            yield outputs
        finally:
            for handle in handles:
                handle.remove()

    def regroup(self, groups: Mapping[str, Sequence[str]]) -> AudioClassifier:
        """A classifier of new labels, each the maximum of the logits of some old ones.

        Parameters
        ----------
        groups : dict of str to sequence of str
            ``{"dog": ["Dog", "Bark"], ...}``.

        Returns
        -------
        AudioClassifier
            Sharing this one's network.

        Raises
        ------
        ClassifierError
            An old label is unknown, a group is empty, or this classifier is regrouped already.
        """
        if self._regrouping is not None:
            raise ClassifierError(f"{self.name} is regrouped already; regroup the original classifier.")
        members = tuple(tuple(self.target_of(label) for label in old) for old in groups.values())
        empty = [new for new, old in zip(groups, members, strict=True) if not old]
        if empty or not groups:
            raise ClassifierError(f"Each new label needs old ones; these have none: {empty or 'there is no group'}.")
        regrouped = copy.copy(self)
        regrouped.labels = tuple(groups)
        regrouped._regrouping = members
        return regrouped

    def with_network(self, network: nn.Module) -> AudioClassifier:
        """The same classifier around another network of the same inputs and outputs, such as one with other weights.

        The network is shared, not copied. The checksum is that of the new network's tensors.
        """
        other = copy.copy(self)
        for computed_from_network in ("_tensors_digest", "precision_deviation"):
            other.__dict__.pop(computed_from_network, None)
        other.network = network
        other._validated = False
        other._architecture = [identity_of_architecture(network), *self._architecture[1:]]
        return other

    def prepare(self) -> AudioClassifier:
        """The same classifier, tried on noise and made faster.

        Batch norm is folded into the copy, where the outputs stay equal (1e-4 of the largest |logit|). The checksum is
        that of the plain network.

        Raises
        ------
        ClassifierError, AudioError
            See :meth:`logits_of_features`: a wrong network is found here and not in the middle of a run.
        """
        with torch.no_grad():
            features = self.features(self._noise())
            self.logits_of_features(features)
            inputs = self._patches(features, self.segmenter).flatten(0, 1) if self.segmenter else features
        fast = copy.copy(self)
        fast.__dict__["_tensors_digest"] = self._tensors_digest
        fast.network = prepared(self.network, inputs)
        return fast

    def at_precision(self, precision: Precision) -> AudioClassifier:
        """The same classifier whose network computes in another precision; front end and logits stay float32.

        Parameters
        ----------
        precision : {"float32", "bfloat16"}
            ``"bfloat16"`` (torch's autocast) is faster on GPUs, and on CPUs that multiply bfloat16 in hardware, and
            changes the numbers: :attr:`precision_deviation` says by how much.

        Raises
        ------
        ConfigurationError
            There is no such precision.
        """
        if precision not in get_args(Precision):
            raise ConfigurationError(f"There is no precision {precision!r}. {nearest(precision, get_args(Precision))}")
        other = copy.copy(self)
        other.__dict__.pop("precision_deviation", None)
        other.precision = precision
        return other

    @functools.cached_property
    def precision_deviation(self) -> float:
        """Largest difference from the logits in float32, over the largest |logit|, on seeded noise."""
        if self.precision == "float32":
            return 0.0
        noise = self._noise()
        with torch.no_grad():
            exact = self.at_precision("float32").logits(noise)
            return float((self.logits(noise) - exact).abs().max() / exact.abs().max())

    def to(self, device: torch.device | str) -> AudioClassifier:
        """The same classifier on another device."""
        moved = copy.copy(self)
        for stage in ("network", "front_end", "segmenter"):
            if isinstance(module := getattr(self, stage), nn.Module):
                setattr(moved, stage, copy.deepcopy(module).to(device))
        return moved

    @property
    def checksum(self) -> str:
        """SHA-256 (hex) over all that can change its outputs: weights, modules, front end, segmenter, labels, pool."""
        return digest_of(
            {
                "tensors": self._tensors_digest,
                "architecture": self._architecture,
                "labels": self.labels,
                "regrouping": self._regrouping,
                "pool": self.pool,
                "multilabel": self.multilabel,
                "precision": self.precision,
            }
        )

    @functools.cached_property
    def _tensors_digest(self) -> str:
        front_end = tensors_of(self.front_end) if isinstance(self.front_end, nn.Module) else {}
        named = {"network": tensors_of(self.network), "front_end": front_end}
        return digest_of_tensors(
            {f"{stage}/{n}": value for stage, tensors in named.items() for n, value in tensors.items()}
        )

    def _noise(self) -> Tensor:
        """Two rows of quiet noise, as long as the classifier takes it, or a second."""
        n_samples = round(self.duration_s * self.rate) if self.duration_s else max(self.min_samples, self.rate)
        noise = 0.1 * torch.randn(2, n_samples, generator=torch.Generator().manual_seed(0))
        floating = (parameter.dtype for parameter in self.network.parameters() if parameter.is_floating_point())
        return noise.to(self.device, next(floating, noise.dtype))

    def _patches(self, features: Tensor, segmenter: Segmenter) -> Tensor:
        patches: Tensor = segmenter(features)
        if patches.ndim < 3 or patches.shape[0] != features.shape[0]:
            raise ClassifierError(
                f"The segmenter of {self.name} must return patches of shape ({features.shape[0]}, P, …), "
                f"got {tuple(patches.shape)}."
            )
        if patches.shape[1] == 0:
            raise AudioError(
                f"{self.name} makes no patch of features of shape {tuple(features.shape)}. Give a longer recording."
            )
        return patches

    def _run(self, inputs: Tensor) -> Tensor:
        if not self._validated:  # ahead of the pass, so that an explainer's hooks keep what they see last
            check_logits(self.network, inputs, n_classes=self._n_outputs, multilabel=self.multilabel, name=self.name)
            self._validated = True
        # A copy, because an in-place operation at the network's entrance would change the caller's batch.
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            outputs: Tensor = self.network(inputs.clone())
        if self.precision == "bfloat16":
            outputs = outputs.float()
        check_shape(outputs, n_rows=inputs.shape[0], n_classes=self._n_outputs, name=self.name)
        return outputs

    @staticmethod
    def _tap(name: str, outputs: dict[str, Tensor]) -> Callable[[nn.Module, object, object], Tensor]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> Tensor:
            if not isinstance(output, Tensor):
                raise ClassifierError(
                    f"The layer {name!r} returns {type(output).__name__}, not one tensor. Name another."
                )
            if name in outputs:
                raise ClassifierError(f"The layer {name!r} runs more than once in a forward pass. Name another.")
            if torch.is_grad_enabled() and not output.requires_grad:
                output = output.detach().requires_grad_()
            outputs[name] = output
            return output.clone()

        return hook


def _frozen_copy(stage: _T) -> _T:
    """A copy of a module in evaluation mode, without gradients; anything else as it is."""
    if not isinstance(stage, nn.Module):
        return stage
    try:
        return copy.deepcopy(stage).eval().requires_grad_(False)
    except Exception as error:
        raise ClassifierError(
            f"{type(stage).__name__} cannot be copied ({error}); build it anew and load its state."
        ) from error
