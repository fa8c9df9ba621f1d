"""Tables on a terminal."""

from __future__ import annotations

import textwrap

MIN_TEXT = 30
"""Columns below which the text of a row gets lines of its own."""


def lay_out(rows: list[list[str]], width: int) -> list[str]:
    """Rows as lines, without the blanks at their ends.

    Parameters
    ----------
    rows : list of list of str
        The first one is the header. The last cell of each is text: all others are aligned, and it is wrapped beside
        them or, where that gets too narrow, below them.
    width : int
        Columns of the terminal.
    """
    widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
    left = sum(widths) + 2 * len(widths)
    beside = width - left - 2 >= MIN_TEXT
    lines = []
    for number, (*cells, summary) in enumerate(rows):
        start = "  " + "".join(f"{cell:<{size}}  " for cell, size in zip(cells, widths, strict=True))
        if beside:
            text = textwrap.wrap(summary, width - left - 2) or [""]
            lines += [start + text[0], *(" " * (left + 2) + line for line in text[1:])]
        else:
            text = textwrap.wrap(summary, max(MIN_TEXT, width - 6)) if number else []
            lines += [start, *("      " + line for line in text)]
    return [line.rstrip() for line in lines]
