"""Writes the pages of a report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from earwitness.artifacts import write_atomically
from earwitness_bench.leaderboard import Table
from earwitness_bench.leaderboard.sections import show, show_p
from earwitness_bench.media import RANGE_DB, ticks
from earwitness_bench.report.charts import AXIS_Y, COLOURS, CURVE_HEIGHT, CURVE_WIDTH, WIDTH, chart_of, ranks_of
from earwitness_bench.report.facts import ArenaFacts
from earwitness_bench.report.gallery import Shown
from earwitness_bench.report.tables import Grid, grids

STATIC = Path(__file__).parent / "static"


@dataclass
class ArenaPages:
    """An arena as its pages show it.

    Attributes
    ----------
    number : int
        From 1.
    facts : ArenaFacts
    table : Table
    shown : list of Shown
        The clips that have pages.
    played : list of str
        Titles of the explainers that are heard.
    document : dict
        Of the plan.
    """

    number: int
    facts: ArenaFacts
    table: Table
    shown: list[Shown]
    played: list[str]
    document: dict[str, Any]

    @property
    def grids(self) -> list[Grid]:
        """Its leaderboard."""
        return grids(self.table)

    @property
    def legend(self) -> list[str]:
        """Explainers with curves: as on the leaderboard, without shuffled maps."""
        there = {name for lines in self.facts.lines for name in lines.y}
        order = [s.explainer for s in self.table.standings]
        return [name for name in order if name in there and not name.startswith("shuffled: ")]

    @property
    def charts(self) -> list[Any]:
        """Its curves."""
        return [chart_of(lines, self.legend) for lines in self.facts.lines if set(lines.y) & set(self.legend)]

    @property
    def diagrams(self) -> list[Any]:
        """Its critical-difference diagrams: (difference, layout)."""
        return [(difference, ranks_of(difference)) for difference in self.table.differences]

    def explainer_page(self, explainer: str) -> str:
        """File name."""
        titles = [e["title"] for e in self.document["explainers"]]
        return f"explainer-{self.number}-{titles.index(explainer) + 1}.html"

    def clip_page(self, shown: Shown) -> str:
        """File name."""
        return f"clip-{self.number}-{shown.number}.html"

    def columns(self) -> list[dict[str, Any]]:
        """Those that cards show: headline, else all."""
        own = [dict(c) for c in self.table.columns if c["headline"]] or [dict(c) for c in self.table.columns]
        return own[:8]


def environment(package: str = "earwitness_bench.report") -> jinja2.Environment:
    """Templates in which every value is text: markup in a name stays a name."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def write_pages(folder: Path, arenas: list[ArenaPages], plan: dict[str, Any], notes: list[str]) -> int:
    """Write all pages; returns how many.

    Parameters
    ----------
    folder : Path
    arenas : list of ArenaPages
    plan : dict
        Of the results folder.
    notes : list of str
        What was left out, and why.
    """
    for asset in STATIC.iterdir():
        write_atomically(folder / asset.name, asset.read_bytes())
    env = environment()
    env.globals.update(
        plan=plan,
        arenas=arenas,
        notes=notes,
        axis_y=AXIS_Y,
        ranks_width=WIDTH,
        curve_width=CURVE_WIDTH,
        curve_height=CURVE_HEIGHT,
        colours=COLOURS,
        range_db=RANGE_DB,
    )
    env.filters.update(number=lambda value, digits=3: show(value, digits), p_value=show_p, pretty=_pretty, ticks=ticks)
    pages = {"index.html": env.get_template("index.html").render()}
    for arena in arenas:
        for standing in arena.table.standings:
            name = arena.explainer_page(standing.explainer)
            pages[name] = env.get_template("explainer.html").render(arena=arena, standing=standing)
        for place, shown in enumerate(arena.shown):
            before = arena.shown[place - 1] if place else None
            after = arena.shown[place + 1] if place + 1 < len(arena.shown) else None
            pages[arena.clip_page(shown)] = env.get_template("clip.html").render(
                arena=arena, shown=shown, before=before, after=after
            )
    for name, content in pages.items():
        write_atomically(folder / name, content.encode())
    return len(pages)


def _pretty(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)
