"""Leaderboards as files for papers."""

from __future__ import annotations

import re
from pathlib import Path

from earwitness.artifacts import write_atomically
from earwitness.errors import StoreError
from earwitness_bench.leaderboard.diagram import draw_critical_difference
from earwitness_bench.leaderboard.formats import as_markdown, as_tex
from earwitness_bench.leaderboard.tables import Table


def write_pages(tables: list[Table], folder: Path) -> list[Path]:
    """Write ``leaderboard.md``, ``leaderboard.tex`` and the critical-difference diagrams of each arena.

    Parameters
    ----------
    tables : list of Table
    folder : Path
        Made if need be.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    written = []
    for name, content in (("leaderboard.md", as_markdown(tables)), ("leaderboard.tex", as_tex(tables))):
        write_atomically(folder / name, content.encode())
        written.append(folder / name)
    for number, table in enumerate(tables, start=1):
        for difference in table.differences:
            path = folder / f"critical-difference-{number}-{_file_name(f'{table.arena} {difference.column}')}.svg"
            title = f"{table.arena}: {difference.column}, ranks over {difference.groups} recordings"
            written.append(draw_critical_difference(path, difference, title=title))
    return written


def _file_name(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80]
