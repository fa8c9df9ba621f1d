"""Suite files: what is scored, on what, by what. A typo is an error that names the nearest valid key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from earwitness.audio.rules import parse_rule
from earwitness.errors import ConfigurationError, nearest

SHIPPED = Path(__file__).parent / "suites"

CONTROLS = ("uniform-noise", "loudness", "constant-gain", "all-ones", "all-zeros")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reference(_Section):
    """A plugin's name and its parameters."""

    name: str
    parameters: dict[str, Any] = {}


class ExplainerEntry(Reference):
    """An explainer in a suite.

    ``label`` is its name in tables (default: name and parameters); ``fit`` names the data that a method which must be
    fitted is fitted to, for each classifier.
    """

    label: str = ""
    fit: Reference | None = None

    @property
    def title(self) -> str:
        """Name in tables."""
        if self.label:
            return self.label
        settings = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name} ({settings})" if settings else self.name


class Arena(_Section):
    """A classifier and the recordings on which its decisions are explained. ``clips`` takes the first that many."""

    dataset: Reference
    classifier: Reference
    label: str = ""
    clips: Annotated[int, Field(ge=1)] | None = None

    @property
    def title(self) -> str:
        """Name in tables."""
        return self.label or f"{self.classifier.name} on {self.dataset.name}"


class Suite(_Section):
    """A whole run.

    Attributes
    ----------
    seed, chunk_size, threads
        Part of every result's identity; ``threads`` 0 is all cores.
    target
        Explain the classifier's ``predicted`` class, or the clip's ``label``.
    route, scale, rule
        How an explanation becomes a mask and reaches the classifier (rule: for methods without a mask of their own).
    controls
        Run the controls: noise, loudness, constant gain, all-ones, all-zeros, and each method's own maps shuffled
        over clips.
    map_cap_mb
        Explanations of a chunk that are larger are not kept but computed again when needed.
    """

    name: str
    summary: str = ""
    seed: int = 0
    chunk_size: Annotated[int, Field(ge=1, le=256)] = 8
    threads: Annotated[int, Field(ge=0, le=256)] = 0
    target: Literal["predicted", "label"] = "predicted"
    route: Literal["waveform", "spectrogram"] = "waveform"
    scale: Literal["magnitude", "log1p"] = "magnitude"
    rule: str = "normalise"
    controls: bool = True
    map_cap_mb: float = 16.0
    arenas: Annotated[tuple[Arena, ...], Field(min_length=1)]
    explainers: Annotated[tuple[ExplainerEntry, ...], Field(min_length=1)]
    metrics: Annotated[tuple[Reference, ...], Field(min_length=1)]

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, text: str) -> str:
        return str(parse_rule(text))


def shipped_suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load_suite(source: str | Path) -> Suite:
    """Read a suite.

    Parameters
    ----------
    source : str or path
        A TOML file, or the name of a shipped suite.

    Raises
    ------
    ConfigurationError
        No such file or suite, not TOML, or a key or value that is not valid.
    """
    path = Path(source)
    shipped = shipped_suites()
    if not path.exists() and str(source) in shipped:
        path = shipped[str(source)]
    try:
        document = tomllib.loads(path.read_text())
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigurationError(
            f"There is no suite file {source}. Give a TOML file, or a shipped suite: {', '.join(shipped)}."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error
    return parse_suite(document, str(path))


def parse_suite(document: dict[str, Any], origin: str = "suite") -> Suite:
    """Validate a suite given as a document; see :func:`load_suite`."""
    try:
        suite = Suite.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(f"{origin}: " + "; ".join(_explain(problem) for problem in error.errors())) from None
    for what, titles in (
        ("arenas", [arena.title for arena in suite.arenas]),
        ("explainers", [entry.title for entry in suite.explainers]),
    ):
        if len(set(titles)) < len(titles):
            raise ConfigurationError(f"{origin}: two {what} have the same name: {titles}. Give them a `label`.")
    return suite


_SECTIONS: dict[str, type[BaseModel]] = {
    "arenas": Arena,
    "dataset": Reference,
    "classifier": Reference,
    "fit": Reference,
    "explainers": ExplainerEntry,
    "metrics": Reference,
}


def _explain(problem: Any) -> str:
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        section = next((_SECTIONS[part] for part in reversed(place[:-1]) if part in _SECTIONS), Suite)
        return f"unknown key {'.'.join(place)!r}. {nearest(place[-1], section.model_fields)}"
    if problem["type"] == "missing":
        return f"{'.'.join(place)!r} is missing"
    return f"{'.'.join(place)!r}: {problem['msg']}, got {problem['input']!r}"
