"""earwitness: see, hear and measure why an audio classifier decided what it decided.

The names below are imported when they are first used, so that ``import earwitness`` (and ``earwitness list``) needs no
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from earwitness.errors import EarwitnessError
from earwitness.hookspecs import hookimpl

if TYPE_CHECKING:
    from earwitness.api import explain, list_names, load_classifier, load_dataset, load_explainer
    from earwitness.classifier import AudioClassifier
    from earwitness.clips import Batch, Clip
    from earwitness.explanation import Explanation, Mask, Relevance
    from earwitness.protocols import Curve
    from earwitness.recordings import Settings
    from earwitness.verdict import Verdict

_HOMES = {
    "explain": "earwitness.api",
    "list_names": "earwitness.api",
    "load_classifier": "earwitness.api",
    "load_dataset": "earwitness.api",
    "load_explainer": "earwitness.api",
    "AudioClassifier": "earwitness.classifier",
    "Batch": "earwitness.clips",
    "Clip": "earwitness.clips",
    "Explanation": "earwitness.explanation",
    "Mask": "earwitness.explanation",
    "Relevance": "earwitness.explanation",
    "Curve": "earwitness.protocols",
    "Settings": "earwitness.recordings",
    "Verdict": "earwitness.verdict",
}

__all__ = [
    "AudioClassifier",
    "Batch",
    "Clip",
    "Curve",
    "EarwitnessError",
    "Explanation",
    "Mask",
    "Relevance",
    "Settings",
    "Verdict",
    "explain",
    "hookimpl",
    "list_names",
    "load_classifier",
    "load_dataset",
    "load_explainer",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'earwitness' has no attribute {name!r}")
