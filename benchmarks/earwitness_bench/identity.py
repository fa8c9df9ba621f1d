"""What a result depends on, in words and as a key: versions, sources, machine kind, threads."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from earwitness.registry import Offer

LIBRARIES = ("torch", "torchaudio", "captum", "zennit", "quantus", "numpy", "scipy", "librosa", "soxr", "soundfile")

EXPLANATIONS_VERSION = 3
"""Raise it whenever the benchmark's own part in an explanation changes (packing, shuffling, seeding)."""


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What can change numbers and is the same for all cells of a run: library versions, device kind, threads."""
    return {
        "earwitness": distribution_identity("earwitness", "earwitness"),
        "explanations": EXPLANATIONS_VERSION,
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "device": torch.device(device).type,
        "threads": torch.get_num_threads(),
    }


@functools.cache
def machine() -> dict[str, Any]:
    """What is worth knowing of the machine but enters no key."""
    return {
        "node": platform.node(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git": _git_state(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def plugin_identity(offer: Offer[Any]) -> str:
    """Distribution and version of a plugin, plus a hash of its sources where the version alone may lie."""
    return distribution_identity(offer.origin.distribution, offer.spec.target.split(".")[0].split(":")[0])


@functools.cache
def distribution_identity(distribution: str, package: str) -> str:
    """``name version``, followed by a hash of the package's sources where it was not installed from an index.

    The sources of an editable installation change under the same version, and so do those of a folder, an archive or
    a commit that is installed anew.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return f"{distribution} unknown {_source_hash(package)}"
    from_elsewhere = found.read_text("direct_url.json") is not None
    return f"{distribution} {found.version}" + (f" {_source_hash(package)}" if from_elsewhere else "")


def _source_hash(package: str) -> str:
    spec = importlib.util.find_spec(package)
    roots = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    files = {str(path.relative_to(root)): path for root in roots for path in root.rglob("*.py")}
    if not files and spec and spec.origin:
        files = {package: Path(spec.origin)}
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]


def _git_state() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
