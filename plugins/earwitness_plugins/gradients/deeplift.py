"""DeepLIFT's rescale rule (Shrikumar, Greenside and Kundaje, 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr._core import deep_lift
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import NotApplicableError
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import (
    MEMORY_MB,
    AttributionInput,
    InputDomain,
    check_domain,
    check_memory,
    explained,
)

_ELEMENTWISE = (nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.ReLU6, nn.SiLU, nn.GELU, nn.Mish, nn.SELU, nn.CELU)
"""Activations without a rule in Captum; the rescale rule holds for any function of one number (section 3.5.1)."""


class DeepLift:
    """Change of the logit from silence, shared out by each activation's change over its input's change, by Captum.

    Parameters
    ----------
    domain : {"features", "waveform"}
        From the features of digital silence, or from zero samples.
    memory_mb : float
        What the network may keep for its gradient at once; the input and its reference go through together.

    Notes
    -----
    The diagnostic ``completeness_gap`` is |sum of relevance - (logit(x) - logit(silence))|. It is 0 for networks of
    linear layers and activation modules; products of two hidden maps (squeeze-excite gates), functional activations,
    max pooling and pooling over patches leave a gap, because Captum has no rule, or an approximate one, for them.
    """

    def __init__(self, *, domain: InputDomain = "features", memory_mb: float = MEMORY_MB) -> None:
        self.domain = check_domain(domain)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        NotApplicableError
            The network runs an activation module more than once.
        """
        check_activations(classifier, batch)
        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb / 2
        )

        def attribute(piece: AttributionInput) -> Tensor:
            silence = piece.silence.expand_as(piece.values)
            found: Tensor = CaptumDeepLift(piece.forward).attribute(piece.leaf, silence, target=piece.target)
            return found

        with _rules():
            return explained(given, attribute, baseline=given.silence)


def check_activations(classifier: AudioClassifier, batch: Batch) -> None:
    """NotApplicableError where an activation module runs twice: its rule would mix the two places up."""
    runs: Counter[str] = Counter()
    ruled = (*deep_lift.SUPPORTED_NON_LINEAR, *_ELEMENTWISE)
    modules = {name: module for name, module in classifier.network.named_modules() if isinstance(module, ruled)}
    classifier.probabilities(batch.waveforms[:1])  # ahead, because the first call of all makes a pass of its own
    handles = [
        module.register_forward_hook(lambda _module, _inputs, _output, name=name: runs.update([name]))
        for name, module in modules.items()
    ]
    try:
        classifier.probabilities(batch.waveforms[:1])
    finally:
        for handle in handles:
            handle.remove()
    reused = sorted(name for name, count in runs.items() if count > 1)
    if reused:
        kind = type(modules[reused[0]]).__name__
        raise NotApplicableError(
            f"DeepLIFT needs a module of its own for each activation; {classifier.name} runs {kind} {reused[0]!r} "
            f"{runs[reused[0]]} times. Give each place its own {kind}(), or use integrated-gradients."
        )


@contextmanager
def _rules() -> Iterator[None]:
    """Captum's table of rules with the rescale rule for more activations, while a map is made."""
    known = deep_lift.SUPPORTED_NON_LINEAR
    more = {kind: known[nn.ReLU] for kind in _ELEMENTWISE if kind not in known}
    with mock.patch.dict(known, more), torch.enable_grad():
        yield
