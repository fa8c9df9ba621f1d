"""From what a metric returns to what a cell keeps: columns, curves and outcomes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from earwitness.errors import ExplanationError
from earwitness.protocols import Curve, Scores


def tabulate(score: Any, names: list[str], n_rows: int) -> dict[str, Any]:
    """A metric's answer as plain JSON.

    Parameters
    ----------
    score : Score
        See :data:`earwitness.protocols.Score`.
    names : list of str
        The columns of the metric's spec.
    n_rows : int

    Returns
    -------
    dict
        ``columns`` (values, null where undefined), ``outcomes`` (one per row: ``scored``, ``skipped: …`` or
        ``failed: …``) and, for curves, ``curves``.

    Raises
    ------
    ExplanationError
        Other columns than the spec's, or a column of another shape than (n_rows,).
    """
    reasons: tuple[str, ...] = ("",) * n_rows
    if isinstance(score, Scores):
        score, reasons = score.columns, score.reasons
    if len(reasons) != n_rows:
        raise ExplanationError(f"it gave {len(reasons)} reasons for {n_rows} rows")
    by_name = score if isinstance(score, Mapping) else {names[0]: score}
    if set(by_name) != set(names):
        raise ExplanationError(f"the metric's spec has the columns {names}, but it returned {sorted(by_name)}")
    columns, curves, problems = {}, {}, ["" for _ in range(n_rows)]
    for name in names:
        value = by_name[name]
        if isinstance(value, Curve):
            curves[name] = {"x": _numbers(value.x), "y": [_numbers(row) for row in value.y]}
            value = value.area()
        if not isinstance(value, Tensor) or tuple(value.shape) != (n_rows,):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ExplanationError(f"column {name!r} must be a Tensor of shape ({n_rows},), got {shape}")
        columns[name] = _numbers(value)
        for row, number in enumerate(value.tolist()):
            if math.isinf(number):
                problems[row] = f"failed: {name} is infinite"
    for row, problem in enumerate(problems):
        missing = [name for name in names if columns[name][row] is None]
        if missing and not problem:
            reason = reasons[row] or f"{', '.join(missing)} not defined for this clip"
            problems[row] = reason if reason.startswith("failed: ") else f"skipped: {reason}"
    outcomes = [problem or "scored" for problem in problems]
    return {"columns": columns, "outcomes": outcomes, **({"curves": curves} if curves else {})}


def _numbers(values: Tensor) -> list[float | None]:
    return [json_number(value) for value in values.tolist()]


def json_number(value: Any) -> float | None:
    """A finite number, or None: JSON knows neither NaN nor infinity."""
    number = float(value)
    return number if math.isfinite(number) else None


def json_ready(value: Any) -> Any:
    """A document of dicts, lists, tuples and plain values, with None for each number that JSON has no name for."""
    if isinstance(value, dict):
        return {name: json_ready(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(one) for one in value]
    return json_number(value) if isinstance(value, float) else value
