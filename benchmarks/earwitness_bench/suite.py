"""Suite files: what is scored, on what, by what. A typo is an error that names the nearest valid key."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator, model_validator

from earwitness.audio.rules import parse_rule
from earwitness.classifier import Precision
from earwitness.errors import ConfigurationError, nearest

SHIPPED = Path(__file__).parent / "suites"

Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(strict=True)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Reference(_Section):
    """A plugin's name and its parameters."""

    name: Name
    parameters: dict[str, Any] = {}

    @field_validator("parameters")
    @classmethod
    def _plain(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            json.dumps(parameters, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"parameters are text, finite numbers, booleans, and lists and tables of them ({error})"
            ) from error
        return parameters

    @property
    def short_name(self) -> str:
        """The name as tables show it: what comes with earwitness needs no origin."""
        return self.name.removeprefix("earwitness:")


class Fit(Reference):
    """The data that an explainer is fitted to, those that select among its states, and the seed (the suite's, if none).

    A suite that asks what a fit owes to chance gives ``seeds`` instead: the explainer then stands there once for each,
    as "LABEL, fit SEED". ``start`` names an explainer further up in the suite, whose fit this one starts from: its
    folder is the explainer's own parameter ``start``.
    """

    validation: Reference | None = None
    start: str = ""
    seed: Seed | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> Self:
        if self.seeds is not None and self.seed is not None:
            raise ValueError("give either seed or seeds")
        if self.seeds is not None and len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds are different numbers, got {list(self.seeds)}")
        return self


class ExplainerEntry(Reference):
    """An explainer in a suite.

    ``label`` is its name in tables (default: name and parameters); ``fit`` names the data that a method which must be
    fitted is fitted to, for each classifier; or ``checkpoint`` the folder of a fit that is there already (`earwitness
    fit`), from where the suite is run.
    """

    label: str = ""
    fit: Fit | None = None
    checkpoint: str = ""

    @model_validator(mode="after")
    def _fitted_once(self) -> Self:
        if self.checkpoint and (self.fit or self.parameters):
            raise ValueError("a checkpoint is fitted already and brings its own parameters: leave out fit, parameters")
        if self.fit is not None and self.fit.start and "start" in self.parameters:
            raise ValueError("give start either among the parameters, a folder, or in fit, another explainer's title")
        return self

    @property
    def title(self) -> str:
        """Name in tables."""
        if self.label:
            return self.label
        settings = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.short_name} ({settings})" if settings else self.short_name


class Arena(_Section):
    """A classifier and the recordings on which its decisions are explained. ``clips`` takes the first that many.

    ``train`` names the data that a classifier which explains itself is trained on first; ``classifier`` then has the
    parameters of its training.
    """

    dataset: Reference
    classifier: Reference
    train: Fit | None = None
    label: str = ""
    clips: Annotated[int, Field(ge=1, strict=True)] | None = None

    @model_validator(mode="after")
    def _trained_once(self) -> Self:
        if self.train is not None and self.train.seeds is not None:
            raise ValueError("a classifier is trained once: give seed, not seeds, or an arena for each")
        if self.train is not None and self.train.start:
            raise ValueError("a classifier is trained from its beginning: leave out start")
        return self

    @property
    def title(self) -> str:
        """Name in tables."""
        return self.label or f"{self.classifier.short_name} on {self.dataset.short_name}"


class Suite(_Section):
    """A whole run.

    Attributes
    ----------
    seed, chunk_size, threads
        Part of every result's identity. ``threads`` 0 is the number that a results folder has already; in a new one it
        is torch's own, or 1 for each of several workers.
    target
        Explain the classifier's ``predicted`` class, or the clip's ``label``.
    route, scale, rule
        How an explanation becomes a mask and reaches the classifier (rule: for methods without a mask of their own).
    controls
        Run the controls: noise, loudness, constant gain, all-ones, all-zeros, and each method's own maps shuffled
        over clips.
    precision
        In which the networks compute: ``float32``, or ``bfloat16`` (see ``AudioClassifier.at_precision``).
    memory_mb
        What an explainer may hold of a network's hidden maps at once: the default of each explainer's own parameter
        of this name. It decides how many points go through in one pass, and so the last bits of a result.
    map_cap_mb
        Explanations of a chunk that are larger are not kept but computed again when needed.
    cell_timeout_s
        How long one cell may take: a chunk's explanation, or one metric on it. Default: as long as it wants.
    """

    name: Name
    summary: str = ""
    seed: Annotated[int, Field(strict=True)] = 0
    chunk_size: Annotated[int, Field(ge=1, le=256, strict=True)] = 8
    threads: Annotated[int, Field(ge=0, le=256, strict=True)] = 0
    target: Literal["predicted", "label"] = "predicted"
    route: Literal["waveform", "spectrogram"] = "waveform"
    scale: Literal["magnitude", "log1p"] = "magnitude"
    rule: str = "normalise"
    controls: StrictBool = True
    precision: Precision = "float32"
    memory_mb: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] = 256.0
    map_cap_mb: Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)] = 16.0
    cell_timeout_s: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] | None = None
    arenas: Annotated[tuple[Arena, ...], Field(min_length=1)]
    explainers: Annotated[tuple[ExplainerEntry, ...], Field(min_length=1)]
    metrics: Annotated[tuple[Reference, ...], Field(min_length=1)]

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, text: str) -> str:
        try:
            return str(parse_rule(text))
        except ConfigurationError as error:
            raise ValueError(error) from error

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, names, remedy in (
            ("arenas", [arena.title for arena in self.arenas], "Give them a `label`."),
            ("explainers", [entry.title for entry in self.explainers], "Give them a `label`."),
            ("metrics", [metric.name for metric in self.metrics], "Name each metric once."),
        ):
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"two {what} have the same name: {', '.join(repeated)}. {remedy}")
        return self

    @model_validator(mode="after")
    def _started_from_what_is_there(self) -> Self:
        fits: list[str] = []
        for entry in self.explainers:
            if entry.fit is not None and entry.fit.start and entry.fit.start not in fits:
                raise ValueError(
                    f"{entry.title} starts from the fit of {entry.fit.start!r}, and no explainer further up that is "
                    f"fitted has this name. {nearest(entry.fit.start, fits)}"
                )
            if entry.fit is not None or entry.checkpoint:
                fits.append(entry.title)
        return self


def shipped_suites() -> dict[str, Path]:
    """The suites that come with the package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def load_suite(source: str | Path) -> Suite:
    """Read a suite.

    Parameters
    ----------
    source : str or path
        A TOML file, or the name of a shipped suite, which ``"earwitness:name"`` says in full.

    Raises
    ------
    ConfigurationError
        No such file or suite, not TOML, or a key or value that is not valid.
    """
    path, document = _read(source)
    return parse_suite(document, str(path), folder=path.parent)


def parse_suite(document: dict[str, Any], origin: str = "suite", *, folder: Path | None = None) -> Suite:
    """Validate a suite given as a document; see :func:`load_suite`.

    ``extends`` names a suite (shipped, or a file, from ``folder`` on) whose settings count where the document is
    silent. Arenas, explainers and metrics are added to its own; those of the same name take their place.
    """
    try:
        return Suite.model_validate(_extended(document, origin, folder or Path(), ()))
    except ValidationError as error:
        raise ConfigurationError(f"{origin}: " + "; ".join(_explain(problem) for problem in error.errors())) from None


def _read(source: str | Path) -> tuple[Path, dict[str, Any]]:
    path, shipped = Path(source), shipped_suites()
    if not path.is_file() and str(source).removeprefix(_OWN) in shipped:
        path = shipped[str(source).removeprefix(_OWN)]
    try:
        return path, tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigurationError(
            f"There is no suite file {source}. {nearest(str(source).removeprefix(_OWN), shipped)} Or give a TOML file."
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}.") from error


def _extended(document: dict[str, Any], origin: str, folder: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The document with everything of the suite that it extends, and of the one that this extends, and so on."""
    document = dict(document)
    if isinstance(document.get("explainers"), list):
        document["explainers"] = [one for entry in document["explainers"] for one in _once_a_seed(entry)]
    source = document.pop("extends", None)
    if source is None:
        return document
    if not isinstance(source, str) or not source:
        raise ConfigurationError(f"{origin}: 'extends' is the name of a suite or a file, got {source!r}.")
    path, base = _read(folder / source if (folder / source).is_file() else source)
    if path.resolve() in seen:
        raise ConfigurationError(f"{origin}: the suite {source} extends itself.")
    base = _extended(base, str(path), path.parent, (*seen, path.resolve()))
    for what, title_of in _LISTS.items():
        own, inherited = document.get(what), base.get(what)
        if isinstance(own, list) and isinstance(inherited, list):
            named = {title_of(entry): entry for entry in reversed(own)}
            named.pop(None, None)  # what is not valid is reported when the whole suite is validated
            replaced = [named.get(title_of(entry), entry) for entry in inherited]
            document[what] = replaced + [entry for entry in own if not any(entry is each for each in replaced)]
    return base | document


def _once_a_seed(entry: Any) -> list[Any]:
    """An explainer once for each seed that its fit names; what is not valid is left for the validation to report."""
    try:
        valid = ExplainerEntry.model_validate(entry)
    except ValidationError:
        return [entry]
    if valid.fit is None or valid.fit.seeds is None:
        return [entry]
    data = {key: value for key, value in entry["fit"].items() if key != "seeds"}
    return [{**entry, "label": f"{valid.title}, fit {seed}", "fit": {**data, "seed": seed}} for seed in valid.fit.seeds]


def _title_in(section: type[Arena] | type[ExplainerEntry] | type[Reference]) -> Callable[[Any], str | None]:
    def title(entry: Any) -> str | None:
        try:
            valid = section.model_validate(entry)
        except ValidationError:  # it is reported when the whole suite is validated
            return None
        return valid.name if section is Reference else valid.title  # type: ignore[union-attr]

    return title


_OWN = "earwitness:"
_LISTS = {"arenas": _title_in(Arena), "explainers": _title_in(ExplainerEntry), "metrics": _title_in(Reference)}

_SECTIONS: dict[str, type[BaseModel]] = {
    "arenas": Arena,
    "dataset": Reference,
    "classifier": Reference,
    "fit": Fit,
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
    if problem["type"] == "value_error":
        return ": ".join([*([repr(".".join(place))] if place else []), str(problem["ctx"]["error"])])
    return f"{'.'.join(place)!r}: {problem['msg']}, got {problem['input']!r}"
