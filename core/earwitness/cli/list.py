"""``earwitness list``: everything on offer, and what is broken. Reads specs only, but for a single thing by its name,
which is imported to tell its parameters."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.layout import MIN_TEXT, lay_out
from earwitness.cli.options import PARAMETER_OPTIONS
from earwitness.registry import KINDS, Offer, Registry
from earwitness.specs import ExplainerSpec, MetricSpec, Spec

HELP = """What is installed, from which distribution, and what is broken.

KIND is explainers, metrics, classifiers, datasets or commands; all of them without it. With NAME too, all about that
one: its parameters with their types, defaults and meaning (it is imported for that). Where two distributions offer
the same name it is shown in full, as DISTRIBUTION:NAME, and has to be used like that. FAMILY:NAME stands for several
that another library names. Plugins that cannot be used are named at the end with their reason; this command succeeds
all the same.

\b
--json prints one object with a list for each kind and a list "broken":
  {"explainers": [{"name", "qualified_name", "collides", "distribution", "version",
                   "summary", "target", "paper", "scope", "needs", "api",
                   "resources": {"cpus", "gpus", "memory_mb"}}, …],
   "metrics":     [{… "metric_version", "paper", "needs", "attribution_only", "refused", "api",
                   "columns": [{"name", "direction", "aggregate", "headline", "summary"}, …]}, …],
   "classifiers": [{… "paper", "retrain"}, …],
   "datasets":    [{… "paper", "licence"}, …],
   "commands":    [{… "section"}, …],
   "broken":      [{"distribution", "version", "module", "reason"}, …]}
"version" is the distribution's. With KIND only that list and "broken" are there. With NAME the
list has that one only, and with it "parameters":
  [{"name", "type", "required", "default", "summary"}, …]

\b
Examples:
  earwitness list explainers
  earwitness list explainers gradcam
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
    found = {kind: [_entry(name, offer) for name, offer in registry.shown_names(kind).items()] for kind in kinds}
    return {**found, "broken": _broken(registry)}


def details(registry: Registry, kind: str, name: str) -> dict[str, list[dict[str, Any]]]:
    """What ``--json`` prints of a single offer: as :func:`listing`, and its parameters.

    Parameters
    ----------
    registry : Registry
    kind : str
        A key of ``earwitness.registry.KINDS``, but for ``"commands"``.
    name : str

    Raises
    ------
    PluginError
        There is no such thing, it is refused, or it cannot be imported.
    """
    from earwitness.documented import documented_parameters

    offer = registry.find(kind, name)
    parameters = [parameter.document() for parameter in documented_parameters(offer.spec)]
    shown = next(shown for shown, other in registry.shown_names(kind).items() if other == offer)
    return {kind: [{**_entry(shown, offer), "parameters": parameters}], "broken": _broken(registry)}


def _broken(registry: Registry) -> list[dict[str, Any]]:
    return [
        {
            "distribution": broken.origin.distribution,
            "version": broken.origin.version,
            "module": broken.origin.module,
            "reason": broken.reason,
        }
        for broken in registry.broken
    ]


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
    return "\n".join([kind.upper(), *lay_out(rows, width)]) + "\n"


def _broken_text(registry: Registry, width: int) -> str:
    lines = ["BROKEN (left out; the rest works)"]
    for broken in registry.broken:
        origin = broken.origin
        text = f"{origin.distribution} {origin.version}, module {origin.module}: {broken.reason}"
        wrapped = textwrap.wrap(text, max(MIN_TEXT, width - 4), initial_indent="  ", subsequent_indent="    ")
        lines += wrapped
    return "\n".join(lines) + "\n"


def details_text(registry: Registry, kind: str, name: str, width: int) -> str:
    """A single offer and its parameters, as text wrapped to ``width`` columns; raises as :func:`details` does."""
    from earwitness.documented import documented_parameters

    offer = registry.find(kind, name)
    spec, origin = offer.spec, offer.origin
    said = [f"{spec.name} ({spec.kind} of {origin.distribution} {origin.version})"]
    facts = (spec.summary, getattr(spec, "paper", ""), *(f"needs: {needs}" for needs in [_needs(spec)] if needs))
    said += [line for fact in facts for line in _indented(fact, width)]
    parameters = documented_parameters(spec)
    if not parameters:
        return "\n".join([*said, "", "It takes no parameters."]) + "\n"
    rows = [["name", "type", "default", "meaning"]]
    rows += [[p.name, p.type, "(required)" if p.required else p.default_text, p.summary] for p in parameters]
    option = PARAMETER_OPTIONS.get(spec.kind)
    on_a_command = f"on the command line as {option} NAME=VALUE, " if option else ""
    how = f"Give them {on_a_command}in a suite as parameters = {{ NAME = VALUE }}."
    return "\n".join([*said, "", "PARAMETERS", *lay_out(rows, width), "", how]) + "\n"


def _indented(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(MIN_TEXT, width - 2), initial_indent="  ", subsequent_indent="  ")


@click.command("list", help=HELP)
@click.argument("kind", type=click.Choice(tuple(KINDS)), required=False, metavar="[KIND]")
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def list_command(kind: str | None, name: str | None, as_json: bool) -> None:
    """Print tables, or JSON; see ``HELP``."""
    registry = current_registry()
    width = shutil.get_terminal_size((100, 24)).columns
    if kind and name:
        if kind == "commands":
            raise click.UsageError(f"A command says itself what it takes: `earwitness {name} --help`.")
        if as_json:
            _say_json(details(registry, kind, name))
        else:
            click.echo(details_text(registry, kind, name, width), nl=False)
        return
    kinds = [kind] if kind else [*KINDS]
    if as_json:
        _say_json(listing(registry, kinds))
        return
    parts = [table(registry, each, width) for each in kinds]
    if registry.broken:
        parts.append(_broken_text(registry, width))
    click.echo("\n".join(parts), nl=False)


def _say_json(document: dict[str, list[dict[str, Any]]]) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, default=str))
