"""DeepLIFT's rescale rule (Shrikumar, Greenside and Kundaje, 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from captum.attr import DeepLift as CaptumDeepLift
from captum.attr._core.deep_lift import nonlinear
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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
    own_input,
    pulled_back,
)

_NO_CHANGE = 1e-6
"""Where a unit's input changes by less, its derivative stands for the ratio, which float32 would only make noise of."""

_HELD = 8
"""What a row takes over its hidden maps: its reference goes through too, and Captum copies all that activations see and
say (measured on the packaged CNN: 7)."""


class DeepLift:
    """Change of the logit from silence, shared out by each activation's change over its input's change, by Captum.

    Parameters
    ----------
    domain : {"features", "waveform"}
        From the features of digital silence, or from zero samples.
    memory_mb : float
        What the network's hidden maps, and what is kept beside them, may take at once.

    Notes
    -----
    The rescale rule (section 3.5.1) holds for every function of one number. Of a window of max pooling, the input's
    maximum takes all the credit where it is the larger one, the reference's where that is.

    The diagnostic ``completeness_gap`` is |sum of relevance - (logit(x) - logit(silence))|. It is 0 for networks of
    linear layers, activation modules and max-pooling modules. Products of two hidden maps (squeeze-excite gates),
    softmax, functional activations and pooling over patches keep their gradient, and leave a gap.
    """

    def __init__(self, *, domain: InputDomain = "features", memory_mb: float = MEMORY_MB) -> None:
        self.domain = check_domain(domain)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        NotApplicableError
            The network runs an activation or max-pooling module more than once.
        """
        check_activations(classifier, batch)
        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb / _HELD
        )

        def attribute(piece: AttributionInput) -> Tensor:
            silence = piece.silence.expand_as(piece.values)
            found: Tensor = _Rescale(piece.forward).attribute(piece.leaf, silence, target=piece.target)
            return found

        return explained(given, attribute, baseline=given.silence)


def check_activations(classifier: AudioClassifier, batch: Batch) -> None:
    """NotApplicableError where a module with a rule runs twice: Captum would mix the two places up."""
    runs: Counter[str] = Counter()
    modules = {name: module for name, module in classifier.network.named_modules() if type(module) in _RULES}
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


class _Rescale(CaptumDeepLift):  # type: ignore[misc]
    """Captum's DeepLIFT with the rules of this module.

    Captum's own for max pooling and for softmax let the rows of a batch leak into each other, and the former loses
    credit where windows overlap; many activations have none.
    """

    def _is_non_linear(self, module: nn.Module) -> bool:
        return type(module) in _RULES

    def _register_hooks(self, module: nn.Module, attribute_to_layer_input: bool = True) -> None:
        if self._can_register_hook(module):
            self.forward_handles.append(module.register_forward_pre_hook(own_input))
        super()._register_hooks(module, attribute_to_layer_input)

    def _backward_hook(self, module: nn.Module, grad_input: Tensor, grad_output: Tensor) -> Tensor:
        rule = _RULES[type(module)]
        return rule(module, module.input, module.output, grad_input, grad_output, eps=_NO_CHANGE)

    def _remove_hooks(self, extra_hooks_to_remove: list[RemovableHandle]) -> None:
        super()._remove_hooks(extra_hooks_to_remove)
        for module in self.model.modules():
            if type(module) in _RULES:  # a module whose gradient nobody asked for still holds its maps
                vars(module).pop("input", None)
                vars(module).pop("output", None)


def _max_pooling(
    module: nn.Module, inputs: Tensor, outputs: Tensor, grad_input: Tensor, grad_output: Tensor, *, eps: float
) -> Tensor:
    """Multipliers of max pooling, for the input and its reference (which come, and go, one behind the other)."""
    (here, silent), (output, silent_output) = inputs.chunk(2), outputs.chunk(2)
    credit = grad_output.chunk(2)[0] * (output - silent_output)
    (to_here,) = pulled_back(module.forward, here, credit.where(output > silent_output, 0))
    (to_silent,) = pulled_back(module.forward, silent, credit.where(output < silent_output, 0))
    change = here - silent
    multiplier = torch.where(change.abs() < eps, grad_input.chunk(2)[0], (to_here + to_silent) / change)
    return torch.cat([multiplier, multiplier])


_RULES: dict[type[nn.Module], Callable[..., Tensor]] = {
    **dict.fromkeys(
        (
            *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
            *(nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
        ),
        nonlinear,
    ),
    **dict.fromkeys(
        (
            *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
            *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        ),
        _max_pooling,
    ),
}
