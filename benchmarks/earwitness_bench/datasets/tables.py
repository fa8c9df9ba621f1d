"""Tables that come with data sets: CSV with a header, checked at the door."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness.errors import DatasetError, nearest


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes
    ----------
    table : Path
    number : int
        Of the line in the file; the header is line 1.
    values : dict of str to str
        By column.
    """

    table: Path
    number: int
    values: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.values[column]

    def integer(self, column: str, allowed: range) -> int:
        """A whole number of a given range."""
        text = self[column]
        if not text.isdecimal() or int(text) not in allowed:
            raise self.error(f"{column} is a number from {allowed[0]} to {allowed[-1]}, not {text!r}")
        return int(text)

    def one_of(self, column: str, allowed: Sequence[str]) -> str:
        """One of some words."""
        text = self[column]
        if text not in allowed:
            raise self.error(f"there is no {column} {text!r}. {nearest(text, allowed)}")
        return text

    def file_name(self, column: str) -> str:
        """The bare name of a file, which leads nowhere else."""
        text = self[column]
        if not text or text.startswith(".") or "/" in text or "\\" in text or "\0" in text:
            raise self.error(f"{column} is the name of a file, not {text!r}")
        return text

    def error(self, what: str) -> DatasetError:
        """Something is wrong in this line."""
        end = "" if what.endswith((".", "?")) else "."
        return DatasetError(f"{self.table}, line {self.number}: {what}{end} Is it the published table?")


def read_table(table: Path, columns: Sequence[str]) -> list[Line]:
    """Read a CSV file whose first line names its columns.

    Parameters
    ----------
    table : Path
    columns : sequence of str
        That it must have; it may have more, in any order.

    Returns
    -------
    list of Line
        Values are stripped of blanks around them.

    Raises
    ------
    DatasetError
        It cannot be read, is not text, lacks a column, has no line, or a line is too short.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            header = tuple(reader.fieldnames or ())
            lines = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DatasetError(f"Cannot read {table}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{table} is not a table of comma-separated values ({error}). Fetch it again.") from error
    if not set(columns) <= set(header):
        raise DatasetError(f"{table} needs the columns {', '.join(columns)}; it has {', '.join(header) or 'none'}.")
    if not lines:
        raise DatasetError(f"{table} has a header and no lines. Fetch it again.")
    short = [number for number, row in lines if any(row[column] is None for column in columns)]
    if short:
        raise DatasetError(f"{table}, line {short[0]}: it has fewer values than the header names. Fetch it again.")
    return [Line(table, number, {column: row[column].strip() for column in columns}) for number, row in lines]
