"""``earwitness list``: everything on offer, and what is broken. Reads specs only."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.registry import KINDS, Offer, Registry
from earwitness.specs import ExplainerSpec, MetricSpec, Spec

_MIN_SUMMARY = 30
"""Columns of the terminal below which a summary gets lines of its own."""

HELP = """What is installed, from which distribution, and what is broken.

KIND is explainers, metrics, classifiers, datasets or commands; all of them without it. Where two distributions offer
the same name it is shown in full, as DISTRIBUTION:NAME, and has to be used like that. FAMILY:NAME stands for several
that another library names. Plugins that cannot be used are named at the end with their reason; this command succeeds
all the same.

\b
--json prints one object with a list for each kind and a list "broken":
  {"explainers": [{"name", "qualified_name", "collides", "distribution", "version",
                   "summary", "target", "paper", "scope", "needs", "api"}, …],
   "metrics":     [{… "metric_version", "paper", "needs", "refused", "api",
                   "columns": [{"name", "direction", "aggregate", "headline", "summary"}, …]}, …],
   "classifiers": [{… "paper"}, …],
   "datasets":    [{… "paper", "licence"}, …],
   "commands":    [{… "section"}, …],
   "broken":      [{"distribution", "version", "module", "reason"}, …]}
"version" is the distribution's. With KIND only that list and "broken" are there.

\b
Examples:
  earwitness list explainers
  earwitness list metrics --json
"""


def listing(registry: Registry, kinds: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What ``--json`` prints: plain values only, in a stable order.

    Parameters
    ----------
    registry : Registry
    kinds : sequence of str
        Keys of ``earwitness.registry.KINDS``.

    Returns
    -------
    dict of str to list of dict
        One list per kind, and ``"broken"``.
    """
    found: dict[str, list[dict[str, Any]]] = {
        kind: [_entry(name, offer) for name, offer in registry.shown_names(kind).items()] for kind in kinds
    }
    found["broken"] = [
        {
            "distribution": broken.origin.distribution,
            "version": broken.origin.version,
            "module": broken.origin.module,
            "reason": broken.reason,
        }
        for broken in registry.broken
    ]
    return found


def _entry(shown_name: str, offer: Offer[Spec]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": offer.spec.name,
        "qualified_name": offer.qualified_name,
        "collides": shown_name != offer.spec.name,
        "distribution": offer.origin.distribution,
        "version": offer.origin.version,
        "summary": offer.spec.summary,
        "target": offer.spec.target,
    }
    for field in dataclasses.fields(offer.spec):
        key = "metric_version" if field.name == "version" else field.name
        if key not in entry:
            entry[key] = _plain(getattr(offer.spec, field.name))
    return entry


def _plain(value: Any) -> Any:
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _scope(spec: Spec) -> str:
    return spec.scope if isinstance(spec, ExplainerSpec) else ""


def _needs(spec: Spec) -> str:
    return ", ".join(sorted(spec.needs)) if isinstance(spec, ExplainerSpec | MetricSpec) else ""


def _refused(spec: Spec) -> str:
    return "refused: " if isinstance(spec, MetricSpec) and spec.refused else ""


_COLUMNS: Mapping[str, Mapping[str, Callable[[Spec], str]]] = {
    "explainers": {"scope": _scope, "needs": _needs},
    "metrics": {"needs": _needs},
}


def table(registry: Registry, kind: str, width: int) -> str:
    """The offers of one kind as text.

    Parameters
    ----------
    registry : Registry
    kind : str
        A key of ``earwitness.registry.KINDS``.
    width : int
        Columns of the terminal: summaries are wrapped to it.
    """
    extra = _COLUMNS.get(kind, {})
    rows = [["name", "from", *extra, "summary"]]
    families: dict[tuple[str, ...], list[str]] = {}
    for name, offer in registry.shown_names(kind).items():
        origin = f"{offer.origin.distribution} {offer.origin.version}"
        cells = [origin, *(cell(offer.spec) for cell in extra.values())]
        prefix, _, member = name.rpartition(":")
        if offer.spec.family:
            families.setdefault((f"{prefix}:NAME", *cells, _refused(offer.spec)), []).append(member)
        else:
            rows.append([name, *cells, offer.spec.summary])
    rows += [[*cells, f"{refused}{', '.join(members)}"] for (*cells, refused), members in families.items()]
    if len(rows) == 1:
        return f"{kind.upper()}\n  none\n"
    return "\n".join([kind.upper(), *_lay_out(rows, width)]) + "\n"


def _lay_out(rows: list[list[str]], width: int) -> list[str]:
    """Align all cells but the last, and wrap the last beside them or, where that gets too narrow, below them."""
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    left = sum(widths) + 2 * len(widths)
    beside = width - left - 2 >= _MIN_SUMMARY
    lines = []
    for number, (*cells, summary) in enumerate(rows):
        start = "  " + "".join(f"{cell:<{size}}  " for cell, size in zip(cells, widths, strict=True))
        if beside:
            text = textwrap.wrap(summary, width - left - 2) or [""]
            lines += [start + text[0], *(" " * (left + 2) + line for line in text[1:])]
        else:
            text = textwrap.wrap(summary, max(_MIN_SUMMARY, width - 6)) if number else []
            lines += [start, *("      " + line for line in text)]
    return [line.rstrip() for line in lines]


def _broken_text(registry: Registry, width: int) -> str:
    lines = ["BROKEN (left out; the rest works)"]
    for broken in registry.broken:
        origin = broken.origin
        text = f"{origin.distribution} {origin.version}, module {origin.module}: {broken.reason}"
        wrapped = textwrap.wrap(text, max(_MIN_SUMMARY, width - 4), initial_indent="  ", subsequent_indent="    ")
        lines += wrapped
    return "\n".join(lines) + "\n"


@click.command("list", help=HELP)
@click.argument("kind", type=click.Choice(tuple(KINDS)), required=False, metavar="[KIND]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def list_command(kind: str | None, as_json: bool) -> None:
    """Print tables, or JSON; see ``HELP``."""
    registry = current_registry()
    kinds = [kind] if kind else [*KINDS]
    if as_json:
        click.echo(json.dumps(listing(registry, kinds), indent=2, ensure_ascii=False, default=str))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    parts = [table(registry, each, width) for each in kinds]
    if registry.broken:
        parts.append(_broken_text(registry, width))
    click.echo("\n".join(parts), nl=False)
