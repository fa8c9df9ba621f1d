"""The networks that the project trains itself: what they are made of and how they are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from earwitness.audio.front_end import LogMel
from earwitness_plugins.classifiers.toy_cnn import TOY_LABELS, ToyCNN, toy_front_end


@dataclass(frozen=True)
class Architecture:
    """A network, its front end and its classes.

    Attributes
    ----------
    network : callable -> nn.Module
        Untrained.
    front_end : callable -> LogMel
    labels : tuple of str
    duration_s : float or None
        The fixed length that the network takes; None is any.
    """

    network: Callable[[], nn.Module]
    front_end: Callable[[], LogMel]
    labels: tuple[str, ...]
    duration_s: float | None = None


ARCHITECTURES = {
    "toy-cnn": Architecture(ToyCNN, toy_front_end, TOY_LABELS, duration_s=1.0),
}
