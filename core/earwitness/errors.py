"""One family of errors. Each message says what was given, what was expected and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class EarwitnessError(Exception):
    """Root of every error that earwitness raises on purpose."""


class AudioError(EarwitnessError):
    """A signal or a sound file cannot be used: empty, not finite, too short, corrupt, …"""


class SilentAudioError(AudioError):
    """The signal is constant: there is nothing to hear, hence nothing to explain."""


class ClassifierError(EarwitnessError):
    """A classifier, its weights, its labels or one of its layers is not what was expected."""


class NotApplicableError(EarwitnessError):
    """A method or metric has nothing to say about this classifier, or these clips: a benchmark skips it with this
    reason, which is no failure."""


class ExplanationError(EarwitnessError):
    """An explanation has the wrong shape, domain or range, or cannot be rendered."""


class PluginError(EarwitnessError):
    """A plugin is unknown, broken, or two of them offer the same name."""


class ConfigurationError(EarwitnessError):
    """A suite file, a parameter or a command-line value is not valid."""


class MissingParameterError(ConfigurationError):
    """A plugin is asked for without a parameter that has no default. The command line adds how to give it there.

    Attributes
    ----------
    kind : str
        Singular: ``"explainer"``, ``"dataset"``, …
    name : str
        Of the plugin.
    missing : tuple of str
        The parameters.
    """

    def __init__(self, kind: str, name: str, missing: Sequence[str]) -> None:
        names = " and ".join(map(repr, missing))
        super().__init__(f"{kind} {name!r} needs the parameter{'s' * (len(missing) > 1)} {names}.")
        self.kind = kind
        self.name = name
        self.missing = tuple(missing)

    def __reduce__(self) -> tuple[type[MissingParameterError], tuple[str, str, tuple[str, ...]]]:
        """Errors of workers travel between processes; an exception's own way forgets all but the message."""
        return type(self), (self.kind, self.name, self.missing)


class CheckpointError(EarwitnessError):
    """A saved artifact is missing, damaged or belongs to another classifier."""


class DatasetError(EarwitnessError):
    """A data set is missing, incomplete or does not have the published layout."""


class DownloadError(EarwitnessError):
    """A file cannot be fetched: no network, broken off, too long, or not the file that was published."""


class StoreError(EarwitnessError):
    """A results folder cannot be read or written."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """A sentence that helps after a misspelt ``name``: the closest candidate, or the list of all.

    Returns
    -------
    str
        ``"Did you mean 'x'?"``, ``"Choose one of: a, b, c."``, or ``"There are none."``
    """
    names = sorted(candidates)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Choose one of: {', '.join(names)}." if names else "There are none."
