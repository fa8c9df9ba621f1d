"""Leaderboards as text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields

from earwitness_bench.leaderboard.sections import Section, sections
from earwitness_bench.leaderboard.tables import Counts, Standing, Table

SCHEMA = 2
"""Of the JSON document; 2: above control is corrected after Holm, with counts, differences and agreement."""


def as_json(tables: list[Table]) -> str:
    """For machines."""
    return json.dumps({"schema": SCHEMA, "tables": [asdict(t) for t in tables]}, indent=1, allow_nan=False) + "\n"


def as_csv(tables: list[Table]) -> str:
    """One line per arena and explainer; values at full precision, and how many clips are behind each."""
    names = list(dict.fromkeys(column["title"] for table in tables for column in table.columns))
    bounded = [name for name in names if any(name in s.intervals for table in tables for s in table.standings)]
    nested = ("values", "intervals", "above", "counts")
    facts = [entry.name for entry in fields(Standing) if entry.name not in nested]
    counted = [entry.name for entry in fields(Counts)]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    ends = [f"{name} {end}" for name in bounded for end in ("low", "high")]
    writer.writerow(["arena", *facts, "above", *names, *ends, *(f"{n} {what}" for n in names for what in counted)])
    for table in tables:
        for line in table.standings:
            own = [getattr(line, fact) for fact in facts]
            limits = [end for name in bounded for end in line.intervals.get(name, ("", ""))]
            counts = [
                getattr(line.counts[name], what) if name in line.counts else "" for name in names for what in counted
            ]
            values = [line.values.get(name) for name in names]
            writer.writerow([table.arena, *own, "; ".join(line.above), *values, *limits, *counts])
    return buffer.getvalue()


def as_markdown(tables: list[Table]) -> str:
    """GitHub tables, headline first, own-mask scores second."""
    return "\n".join(
        f"## {_markdown_text(table.arena)}\n\n" + "\n".join(map(_markdown_section, sections(table))) for table in tables
    )


def as_text(tables: list[Table]) -> str:
    """For a terminal."""
    return "\n".join(
        f"{table.arena}\n{'=' * len(table.arena)}\n" + "\n".join(map(text_section, sections(table))) for table in tables
    )


def as_tex(tables: list[Table]) -> str:
    """For papers: LaTeX tables that need the packages booktabs and graphicx."""
    preamble = "% \\usepackage{booktabs,graphicx}\n"
    return preamble + "\n".join(
        f"% {_one_line(table.arena)}\n" + "\n".join(_tex_section(table.arena, s) for s in sections(table))
        for table in tables
    )


def _markdown_section(section: Section) -> str:
    if not section.rows:
        return f"{section.heading}\n"

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_markdown_text, cells)) + " |"

    rule = "| " + " | ".join("---" if i < section.names else "---:" for i in range(len(section.rows[0]))) + " |"
    return f"{section.heading}\n\n" + "\n".join([line(section.rows[0]), rule, *map(line, section.rows[1:])]) + "\n"


def _markdown_text(text: str) -> str:
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def text_section(section: Section) -> str:
    """One section for a terminal."""
    if not section.rows:
        return f"{section.heading}\n"
    widths = [max(map(len, column)) for column in zip(*section.rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < section.names else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in section.rows
    ]
    return f"{section.heading}\n\n" + "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]]) + "\n"


def _tex_section(arena: str, section: Section) -> str:
    caption = _tex_text(f"{_one_line(arena)}. {section.heading}")
    if not section.rows:
        return f"\\noindent {_tex_text(section.heading)}\n"
    n_columns = len(section.rows[0])
    head, *rows = (" & ".join(map(_tex_text, row)) + r" \\" for row in section.rows)
    grid = "\n".join([r"\toprule", head, r"\midrule", *rows, r"\bottomrule"])
    alignment = "l" * section.names + "r" * (n_columns - section.names)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\resizebox{{\\linewidth}}{{!}}{{%\n"
        f"\\begin{{tabular}}{{{alignment}}}\n{grid}\n\\end{{tabular}}}}\n\\end{{table}}\n"
    )


_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "*": "$^{*}$",
    "†": r"$^{\dagger}$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "τ": r"$\tau$",
    "Δ": r"$\Delta$",
}
_TEX_SPECIAL = re.compile("|".join(map(re.escape, _TEX)))


def _tex_text(text: str) -> str:
    """Text in which LaTeX finds nothing to execute; braces keep a leading bracket from being read as an option."""
    safe = _TEX_SPECIAL.sub(lambda found: _TEX[found[0]], _one_line(text))
    return f"{{}}{safe}" if safe.startswith("[") else safe


FORMATS: dict[str, Callable[[list[Table]], str]] = {
    "table": as_text,
    "markdown": as_markdown,
    "tex": as_tex,
    "csv": as_csv,
    "json": as_json,
}
