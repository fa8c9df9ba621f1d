"""A classifier as the host sees it: from waveforms to logits, every stage at hand.

::

    waveform ──▶ front end ──▶ features ──▶ segmenter ──▶ network ──▶ pool ──▶ logits
     (B, T)                    (B,1,M,N')   (B·P, …)                           (B, C)
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from earwitness.audio.front_end import FrontEnd
from earwitness.audio.stft import ListeningSTFT
from earwitness.errors import AudioError, ClassifierError, nearest
from earwitness.folding import prepared
from earwitness.grid import Grid
from earwitness.pooling import POOLS, PoolName

Segmenter = Callable[[Tensor], Tensor]
"""Features (B, 1, M, N') -> patches (B, P, ...), what the network eats along the last axes."""


class AudioClassifier:
    """A network together with everything between the waveform and its logits.

    The network is copied: the user's module keeps its mode, parameters, hooks and ``requires_grad``, whatever happens
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
        Features (B, 1, M, N') to patches (B, P, ...).
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
        No labels, labels twice, or a network that cannot be copied.
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
        if not labels or len(set(labels)) != len(labels):
            raise ClassifierError(f"A classifier needs labels, each once; got {list(labels)}.")
        if pool not in POOLS:
            raise ClassifierError(f"There is no pool {pool!r}. {nearest(pool, POOLS)}")
        try:
            self.network = copy.deepcopy(network).eval()
        except Exception as error:
            raise ClassifierError(
                f"The network cannot be copied ({error}); build it anew and load its state."
            ) from error
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.front_end = front_end
        self.labels = tuple(labels)
        self.segmenter = segmenter
        self.pool: PoolName = pool
        self.multilabel = multilabel
        self.duration_s = duration_s
        self.name = name
        self._regrouping: tuple[tuple[int, ...], ...] | None = None
        self._validated = False

    @property
    def rate(self) -> int:
        """Sampling rate in Hz."""
        return self.front_end.rate

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return next((p.device for p in self.network.parameters()), torch.device("cpu"))

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
            return ListeningSTFT(self.rate, n_fft, hop_length)
        return ListeningSTFT.for_rate(self.rate)

    @functools.lru_cache(maxsize=8)  # noqa: B019 - a classifier lives as long as the run
    def feature_grid(self, n_samples: int) -> Grid | None:
        """Hz and seconds of the feature map of ``n_samples``; None for networks that eat samples."""
        return self.front_end.grid(n_samples)

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
            The network returns something else than (B, C) logits.
        """
        if self.segmenter is None:
            logits = self._run(features)
        else:
            patches = self.segmenter(features)
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

    def layer(self, name: str) -> nn.Module:
        """A module of the network by its dotted name.

        Raises
        ------
        ClassifierError
            There is none.
        """
        modules = dict(self.network.named_modules())
        if name not in modules or not name:
            raise ClassifierError(f"{self.name} has no layer {name!r}. {nearest(name, [n for n in modules if n])}")
        return self.network.get_submodule(name)

    @contextmanager
    def taps(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Record the outputs of hidden layers, gradients attached, while the context is open.

        Parameters
        ----------
        names : sequence of str
            Dotted module names.

        Yields
        ------
        dict of str to Tensor
            Filled by each forward pass made inside.
        """
        outputs: dict[str, Tensor] = {}
        handles = []

        def keep(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                outputs[name] = output

            return hook

        try:
            for name in names:
                handles.append(self.layer(name).register_forward_hook(keep(name)))
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
        """
        if self._regrouping is not None:
            raise ClassifierError(f"{self.name} is regrouped already; regroup the original classifier.")
        members = tuple(tuple(self.target_of(label) for label in old) for old in groups.values())
        empty = [new for new, old in zip(groups, members, strict=True) if not old]
        if empty:
            raise ClassifierError(f"These groups have no members: {empty}.")
        regrouped = copy.copy(self)
        regrouped.labels = tuple(groups)
        regrouped._regrouping = members
        regrouped.__dict__.pop("checksum", None)
        return regrouped

    def prepare(self) -> AudioClassifier:
        """The same classifier, faster: batch norm folded into the copy, where the outputs stay equal (1e-4)."""
        probe = torch.randn(2, self._probe_samples, generator=torch.Generator().manual_seed(0)).to(self.device) * 0.1
        with torch.no_grad():
            features = self.features(probe)
            patches = self.segmenter(features).flatten(0, 1) if self.segmenter else features
        fast = copy.copy(self)
        fast.__dict__["checksum"] = self.checksum  # the same classifier: its identity is that of the plain network
        fast.network = prepared(self.network, patches)
        return fast

    def to(self, device: torch.device | str) -> AudioClassifier:
        """The same classifier on another device."""
        moved = copy.copy(self)
        moved.network = copy.deepcopy(self.network).to(device)
        moved.front_end = (
            copy.deepcopy(self.front_end).to(device) if isinstance(self.front_end, nn.Module) else self.front_end
        )
        return moved

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 (hex) over all that can change its outputs: weights, modules, front end, labels, pool."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        settings = {
            "network": repr(self.network),
            "front_end": [type(self.front_end).__name__, self.front_end.describe()],
            "segmenter": getattr(self.segmenter, "__qualname__", repr(self.segmenter)),
            "labels": self.labels,
            "regrouping": self._regrouping,
            "pool": self.pool,
            "multilabel": self.multilabel,
        }
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    @property
    def _probe_samples(self) -> int:
        return round(self.duration_s * self.rate) if self.duration_s else max(self.min_samples, self.rate)

    def _run(self, inputs: Tensor) -> Tensor:
        outputs = self.network(inputs)
        if not self._validated:
            self._validate(inputs, outputs)
            self._validated = True
        return outputs  # type: ignore[no-any-return]

    def _validate(self, inputs: Tensor, outputs: Any) -> None:
        """Refuse, once, a network that does not return logits for these labels."""
        n_classes = len(self.labels) if self._regrouping is None else None
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or outputs.shape[0] != inputs.shape[0]:
            given = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ClassifierError(
                f"The network of {self.name} must return logits of shape ({inputs.shape[0]}, C), got {given}. "
                "Wrap it in a module that returns only the logits."
            )
        if n_classes is not None and outputs.shape[1] != n_classes:
            raise ClassifierError(
                f"The network of {self.name} has {outputs.shape[1]} outputs, but {n_classes} labels were given."
            )
        with torch.no_grad():
            # One more pass on other data: a logit may fall in [0, 1] by chance, never all of them on noise too.
            noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0)).to(inputs)
            both = torch.cat([outputs.detach(), self.network(inputs + noise), self.network(-inputs - noise)])
        if not bool(torch.isfinite(outputs).all()):
            raise ClassifierError(
                f"The network of {self.name} returns NaN or infinite values. Are its weights damaged?"
            )
        inside = bool(((both >= 0) & (both <= 1)).all())
        sums_to_one = bool(((both.sum(1) - 1).abs() < 1e-3).all())
        if inside and (sums_to_one or (self.multilabel and both.shape[1] > 1)):
            raise ClassifierError(
                f"The network of {self.name} returns probabilities, not logits. Remove its final "
                f"{'sigmoid' if self.multilabel else 'softmax'}: earwitness applies it once, in the host."
            )
