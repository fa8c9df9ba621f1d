"""The benchmark of earwitness: suites, cells, metrics and the leaderboard.

The names below are imported when they are first used, because the hooks of this package must not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from earwitness_bench import leaderboard
    from earwitness_bench.runner import run_suite
    from earwitness_bench.store import Store
    from earwitness_bench.suite import load_suite

__all__ = ["Store", "leaderboard", "load_suite", "run_suite"]

_HOMES = {
    "Store": "earwitness_bench.store",
    "load_suite": "earwitness_bench.suite",
    "run_suite": "earwitness_bench.runner",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "leaderboard":
        return importlib.import_module("earwitness_bench.leaderboard")
    raise AttributeError(f"module 'earwitness_bench' has no attribute {name!r}")
