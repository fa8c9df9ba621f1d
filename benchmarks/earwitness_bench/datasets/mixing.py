"""What every data set made of others needs: those others, and their clips as parts of a sum."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from earwitness.clips import Clip, Dataset, Source
from earwitness.errors import DatasetError, SilentAudioError
from earwitness.registry import registry
from earwitness_bench.datasets.recordings import fit_length

DatasetLike = Dataset | Mapping[str, Any] | str


def dataset_of(given: DatasetLike) -> Dataset:
    """Build a data set from plain values, as a suite file gives them.

    Parameters
    ----------
    given : Dataset, mapping or str
        A data set, which is returned; the name of a registered one; or ``{"name": ..., **parameters}``.

    Raises
    ------
    DatasetError
        The mapping has no name, or the data set does not take such parameters.
    PluginError
        Nobody offers a data set of that name.
    """
    if isinstance(given, str):
        given = {"name": given}
    if not isinstance(given, Mapping):
        if isinstance(given, Dataset):
            return given
        raise DatasetError(f"Expected a data set or a table with its name and parameters, got {given!r}.")
    parameters = dict(given)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise DatasetError(f"Expected the 'name' of a data set among its parameters, got {dict(given)!r}.")
    target = registry().dataset(name).spec.load()
    signature = inspect.signature(target)
    try:
        signature.bind(**parameters)
    except TypeError as error:
        raise DatasetError(
            f"The data set {name!r} {error}. Its parameters are: {', '.join(signature.parameters)}."
        ) from error
    built: Dataset = target(**parameters)
    return built


def norm_of(clip: Clip) -> float:
    """The L2 norm of a clip's samples; SilentAudioError if it is 0."""
    norm = float(clip.waveform.double().square().sum().sqrt())
    if not norm:
        raise SilentAudioError(
            f"Clip {clip.clip_id!r} is silent, so it cannot be mixed at a given level. Leave it out."
        )
    return norm


def fitted(clip: Clip, n_samples: int) -> Clip:
    """A clip and its parts, cut or padded to a length in samples."""
    sources = {
        name: replace(source, waveform=fit_length(source.waveform, n_samples)) for name, source in clip.sources.items()
    }
    return replace(clip, waveform=fit_length(clip.waveform, n_samples), sources=sources)


def sources_of(clip: Clip, role: str) -> dict[str, Source]:
    """The clean parts of a clip, their names led by its role; a clip whose parts are not known is one."""
    if clip.sources:
        return {f"{role}/{name}": source for name, source in clip.sources.items()}
    return {role: Source(clip.waveform, clip.labels[0] if clip.labels else None)}


def scaled(sources: Mapping[str, Source], gain: float) -> dict[str, Source]:
    """Parts at another level."""
    return {name: replace(source, waveform=gain * source.waveform) for name, source in sources.items()}
