"""The one place where Quantus is called.

Quantus 0.6 draws from the process' random numbers, writes to its terminal, normalises a batch by its largest map,
refuses a whole batch for one constant map, and keeps every network that it was shown alive. Here each clip has a stream
of random numbers and a norm of its own, and a map that Quantus would refuse costs its own clip only.

``bridge:NAME`` is a factory with the parameters of Quantus' class ``NAME``, less those that the bridge sets itself.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import ConfigurationError, EarwitnessError, ExplanationError, nearest
from earwitness.explanation import Explanation
from earwitness.protocols import Curve, Scores
from earwitness.random import stream_seed
from earwitness.render import Scene
from earwitness_bench.isolation import isolated
from earwitness_bench.quantus.catalogue import OFFERED, WITHHELD
from earwitness_bench.quantus.views import Network, View, on_input, undefined_rows, view_of

_FUNCTIONS = ("complexity", "discretise", "loss", "norm", "normalise", "perturb", "similarity")
"""Quantus' modules of functions, less their ``_func``."""

_PASSED_ON = (EarwitnessError, OSError, MemoryError, torch.OutOfMemoryError)
"""Errors that are not Quantus' own."""


_Norm = Callable[[Tensor], np.ndarray]


class QuantusError(ExplanationError):
    """Quantus raised something."""


class _UndefinedError(Exception):
    """A clip has no score, for a reason that is no failure."""


def __getattr__(name: str) -> Callable[..., QuantusMetric]:
    """The factory of one metric."""
    if name not in OFFERED:
        raise AttributeError(name)

    def factory(**parameters: Any) -> QuantusMetric:
        return QuantusMetric(name, parameters)

    known = inspect.signature(_class(name)).parameters.values()
    factory.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=parameter.KEYWORD_ONLY) for parameter in known if parameter.name not in WITHHELD]
    )
    return factory


class QuantusMetric:
    """A metric of Quantus.

    Parameters
    ----------
    name : str
        Its class.
    parameters : dict
        Of the class' constructor; a function of Quantus is given by its name.

    Raises
    ------
    ConfigurationError
        Quantus has no function of that name, or does not accept the parameters.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self.name = name
        self.entry = OFFERED[name]
        self._parameters = _with_functions(name, parameters)
        default = inspect.signature(_class(name)).parameters["normalise"].default
        self._normalises = bool(parameters.get("normalise", default))
        # A function that is not the default one may draw numbers, or know nothing of batches.
        special = any(callable(value) or value in ("uniform", "random") for value in self._parameters.values())
        self._by_clip = self.entry.pace == "clip" or (self.entry.pace == "batch" and special)
        self._construct(n_classes=2)

    def score(self, explanation: Explanation, context: Context) -> Scores:
        """See :class:`earwitness.protocols.Metric`. A row that cannot be scored is NaN, with its reason."""
        view = view_of(self.name, explanation, context)
        reasons = undefined_rows(view.maps, view.segments)
        rows = [row for row, reason in enumerate(reasons) if not reason]
        if self.entry.pace == "together" and len(rows) == 1:
            reasons[rows.pop()] = "there is no other clip to compare it with"
        answers: dict[int, np.ndarray] = {}
        failures: list[QuantusError] = []
        for group in [[row] for row in rows] if self._by_clip else [rows] if rows else []:
            try:
                answers.update(zip(group, self._call(view, context, group), strict=True))
            except _UndefinedError as reason:
                reasons[group[0]] = str(reason)
            except QuantusError as error:
                failures.append(error)
                reasons[group[0]] = f"failed: {error}"
        if failures and not answers:
            raise failures[0]
        return Scores({self.name: _column(answers, len(reasons))}, tuple(reasons))

    def _call(self, view: View, context: Context, rows: list[int]) -> list[np.ndarray]:
        """Quantus' answer for some rows: a number or a curve each."""
        classifier = context.classifier
        seed = stream_seed(context.random.seed, self.name, *(context.random.clip_ids[row] for row in rows))
        try:
            with isolated(seed, classifier.device), _contained():
                metric = self._construct(n_classes=len(classifier.labels))
                probabilities = bool(inspect.signature(metric.__call__).parameters["softmax"].default)
                network = Network(classifier, eats_waveforms=view.eats_waveforms, probabilities=probabilities)
                again = _Again(view, context, rows, network, functools.partial(self._normalised, metric))
                answer = metric(
                    model=network,
                    x_batch=view.inputs[rows].cpu().numpy(),
                    y_batch=context.target[rows].cpu().numpy(),
                    a_batch=again.shown(view.maps[rows]),
                    explain_func=again,
                    channel_first=True,
                    softmax=False,
                    device=str(classifier.device),
                    batch_size=len(rows),
                    **({} if view.segments is None else {"s_batch": view.segments[rows].cpu().numpy()}),
                )
                return _per_clip(answer, len(rows))
        except (_UndefinedError, *_PASSED_ON):
            raise
        except Exception as error:
            clips = ", ".join(context.batch.clip_ids[row] for row in rows)
            raise QuantusError(
                f"quantus:{self.name} failed inside Quantus on {clips}. {type(error).__name__}: {error}"
            ) from error

    def _construct(self, n_classes: int) -> Any:
        """Quantus' object, told neither to normalise nor to aggregate nor to speak."""
        kind = _class(self.name)
        own = {
            "num_classes": n_classes,
            "normalise": False,
            "return_aggregate": False,
            "disable_warnings": True,
            "display_progressbar": False,
        }
        known = inspect.signature(kind).parameters
        try:
            with _contained():
                return kind(**{**self._parameters, **{key: value for key, value in own.items() if key in known}})
        except Exception as error:
            raise ConfigurationError(f"quantus:{self.name} does not accept {self._parameters}: {error}") from error

    def _normalised(self, metric: Any, maps: Tensor) -> np.ndarray:
        """Maps (R, 1, …), each normalised by itself, as Quantus would a batch of one: float64."""
        single = maps.detach().cpu().double().numpy()[:, None]
        return np.concatenate([metric.normalise_func(one) if self._normalises else one for one in single])


class _Again:
    """What Quantus calls to explain again: inputs of some rows, of any class, on a network of any weights."""

    def __init__(self, view: View, context: Context, rows: list[int], network: Network, normalised: _Norm) -> None:
        self._view, self._context, self._rows = view, context, rows
        self._network, self._normalised = network, normalised

    def __call__(self, model: Network, inputs: Any, targets: Any, device: str = "") -> np.ndarray:
        context, batch = self._context, self._context.batch.select(self._rows)
        if self._view.eats_waveforms:
            heard = torch.as_tensor(np.asarray(inputs)).reshape(batch.waveforms.shape)
            batch = Batch(heard.to(batch.waveforms), batch.rate, batch.clips)
        classifier = None if model is self._network else context.classifier.with_network(model.network)
        own, wanted = context.target[self._rows], torch.as_tensor(np.asarray(targets)).to(context.target)
        target = None if torch.equal(own, wanted) else wanted
        explanation = context.explain(batch, classifier, target=target, rows=self._rows)
        scene = Scene(context.classifier, batch, context.scene.listening, context.scene.route)
        maps = on_input(scene, explanation)
        for reason in filter(None, undefined_rows(maps, None)):
            raise _UndefinedError(f"explained again, {reason}")
        shown = self.shown(maps)
        return shown.reshape(np.shape(inputs)) if self._view.eats_waveforms else shown

    def shown(self, maps: Tensor) -> np.ndarray:
        """Maps (R, 1, …) as Quantus gets them: normalised, and in the shape of its inputs."""
        return self._view.laid_out(self._normalised(maps))


def _per_clip(answer: Any, n_rows: int) -> list[np.ndarray]:
    """Numbers, bools or curves, one for each row."""
    if isinstance(answer, Mapping) or len(answer) != n_rows:
        raise ValueError(f"it answered {type(answer).__name__} of length {len(answer)} to {n_rows} clips")
    return [np.asarray(value, dtype=np.float64) for value in answer]


def _column(answers: Mapping[int, np.ndarray], n_rows: int) -> Tensor | Curve:
    """Tensor (B,), NaN where there is no answer; or a curve over the steps that Quantus took."""
    n_steps = max((answer.size for answer in answers.values()), default=1)
    values = torch.full((n_rows, n_steps), torch.nan)
    for row, answer in answers.items():
        values[row] = torch.from_numpy(answer.reshape(-1)).float()
    return values[:, 0] if n_steps == 1 else Curve(torch.arange(1.0, n_steps + 1), values)


def _with_functions(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with functions in the place of their names, where Quantus wants a function."""
    known = inspect.signature(_class(name)).parameters
    return {
        key: _function(value)
        if isinstance(value, str)
        and key.endswith(("_func", "_numerator", "_denominator"))
        and not isinstance(known[key].default, str)
        else value
        for key, value in parameters.items()
    }


def _function(name: str) -> Callable[..., Any]:
    modules = [importlib.import_module(f"quantus.functions.{kind}_func") for kind in _FUNCTIONS]
    functions = {
        key: value
        for module in modules
        for key, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    }
    if name not in functions:
        raise ConfigurationError(f"Quantus has no function {name!r}. {nearest(name, functions)}")
    return functions[name]


@functools.cache
def _class(name: str) -> Any:
    with _quiet():
        return getattr(importlib.import_module("quantus"), name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Neither prints nor warnings, and the filters of warnings as they were."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _contained() -> Iterator[None]:
    """Quiet, and no network kept alive by the caches of Quantus' wrapper."""
    wrapper = importlib.import_module("quantus.helpers.model.pytorch_model").PyTorchModel
    try:
        with _quiet():
            yield
    finally:
        for member in vars(wrapper).values():
            if hasattr(member, "cache_clear"):
                member.cache_clear()
