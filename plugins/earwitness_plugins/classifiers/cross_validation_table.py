"""Cross-validated networks beside each other: accuracy, its spread over folds, and paired differences."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from earwitness_plugins.classifiers.cross_validation import Result


@dataclass(frozen=True)
class Row:
    """One network.

    Attributes
    ----------
    label : str
    n_parameters : int
    accuracies : dict of int to dict of int to float, in [0, 1]
        On each test fold, by seed; folds that are not done are missing.
    settings : dict
    """

    label: str
    n_parameters: int
    accuracies: Mapping[int, Mapping[int, float]]
    settings: Mapping[str, Any]

    @property
    def by_fold(self) -> dict[int, float]:
        """Mean accuracy over seeds, of each fold that is done."""
        return {fold: fmean(by_seed.values()) for fold, by_seed in self.accuracies.items()}

    @property
    def seeds(self) -> list[int]:
        """Seeds of which there is a result."""
        return sorted({seed for by_seed in self.accuracies.values() for seed in by_seed})

    @property
    def mean(self) -> float:
        """Over folds."""
        return fmean(self.by_fold.values())

    @property
    def deviation(self) -> float | None:
        """Standard deviation over folds (n - 1); None of one fold."""
        return stdev(self.by_fold.values()) if len(self.accuracies) > 1 else None

    def differences(self, other: Row) -> dict[int, float]:
        """This one's accuracy less that of another, on each fold that both have."""
        return {fold: own - other.by_fold[fold] for fold, own in self.by_fold.items() if fold in other.by_fold}


@dataclass(frozen=True)
class Table:
    """Networks on the same folds: first those that have most of them done, and of these the highest mean accuracy.

    So the first is the best: a single lucky fold does not count for more than five.

    Attributes
    ----------
    folds : tuple of int
        All there are, in the order of their rotation.
    rows : tuple of Row
    """

    folds: tuple[int, ...]
    rows: tuple[Row, ...]

    @property
    def best(self) -> Row:
        """The first."""
        return self.rows[0]


def make_table(results: Sequence[Result]) -> Table:
    """Results of any networks, seeds and folds as a table.

    Parameters
    ----------
    results : sequence of Result
        At least one; see :func:`~.cross_validation.read_results`.
    """
    folds = tuple(results[0].settings["data"]["folds"])
    by_label: dict[str, list[Result]] = {}
    for result in results:
        by_label.setdefault(result.label, []).append(result)
    rows = [_row(own, folds) for own in by_label.values()]
    return Table(folds, tuple(sorted(rows, key=lambda row: (-len(row.accuracies), -row.mean))))


def _row(results: Sequence[Result], folds: Sequence[int]) -> Row:
    accuracies: dict[int, dict[int, float]] = {}
    for result in sorted(results, key=lambda result: (folds.index(result.fold.test), result.seed)):
        accuracies.setdefault(result.fold.test, {})[result.seed] = result.learnt.accuracy["test"]
    return Row(results[0].label, results[0].learnt.n_parameters, accuracies, results[0].settings)


def as_document(table: Table) -> dict[str, Any]:
    """As plain values; accuracies in [0, 1]."""
    return {
        "schema": 1,
        "folds": list(table.folds),
        "best": table.best.label,
        "networks": [_facts(row, table.best) for row in table.rows],
    }


def _facts(row: Row, best: Row) -> dict[str, Any]:
    differences = row.differences(best)
    return {
        "label": row.label,
        "parameters": row.n_parameters,
        "folds_done": len(row.accuracies),
        "seeds": row.seeds,
        "accuracy": {
            "mean": row.mean,
            "standard_deviation": row.deviation,
            "by_fold": _keyed(row.by_fold),
            "by_fold_and_seed": {str(fold): _keyed(by_seed) for fold, by_seed in row.accuracies.items()},
        },
        "difference_to_best": {
            "mean": fmean(differences.values()) if differences else None,
            "by_fold": _keyed(differences),
        },
        "settings": row.settings,
    }


def _keyed(values: Mapping[int, float]) -> dict[str, float]:
    return {str(key): value for key, value in values.items()}


def as_csv(table: Table) -> str:
    """A line for each network; accuracies in [0, 1], empty where a fold is not done."""
    names = ["label", "parameters", "folds_done", "seeds", "accuracy", "standard_deviation"]
    names += [f"accuracy_fold_{fold}" for fold in table.folds]
    names += ["difference_to_best", *(f"difference_fold_{fold}" for fold in table.folds)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in table.rows:
        by_fold, differences = row.by_fold, row.differences(table.best)
        mean = fmean(differences.values()) if differences else None
        facts = [row.label, row.n_parameters, len(by_fold), len(row.seeds), row.mean, row.deviation]
        facts += [by_fold.get(fold) for fold in table.folds]
        writer.writerow([*facts, mean, *(differences.get(fold) for fold in table.folds)])
    return text.getvalue()


def as_text(table: Table) -> str:
    """For people: accuracies in percent."""
    width = max(len("network"), *(len(row.label) for row in table.rows))
    head = f"{'network':<{width}}  {'parameters':>12}  {'folds':>5}  {'seeds':>5}  {'accuracy in %':>13}"
    lines = [head + "".join(f"{f'fold {fold}':>8}" for fold in table.folds) + "  to the best"]
    for row in table.rows:
        facts = f"{row.label:<{width}}  {row.n_parameters:>12,}  {f'{len(row.accuracies)}/{len(table.folds)}':>5}"
        cells = [f"{100 * row.by_fold[f]:.1f}" if f in row.by_fold else "–" for f in table.folds]
        line = f"{facts}  {len(row.seeds):>5}  {with_deviation(row):>13}" + "".join(f"{cell:>8}" for cell in cells)
        lines.append(f"{line}  {_said(row, table.best)}")
    lines.append(
        "Accuracy: mean and standard deviation over folds. To the best: mean difference in points, over shared folds."
    )
    return "\n".join(lines)


def with_deviation(row: Row) -> str:
    """``84.2 ± 2.1``, in percent."""
    mean = f"{100 * row.mean:.1f}"
    return mean if row.deviation is None else f"{mean} ± {100 * row.deviation:.1f}"


def _said(row: Row, best: Row) -> str:
    if row is best:
        return "best"
    differences = row.differences(best)
    if not differences:
        return "no fold in common"
    said = f"{100 * fmean(differences.values()):+.1f}"
    return said if len(differences) == len(best.accuracies) else f"{said} (on {len(differences)})"
