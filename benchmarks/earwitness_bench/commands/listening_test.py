"""``earwitness listening-test``: what people think of what explainers keep."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import device_option, json_option
from earwitness.cli.progress import progress_bar

if TYPE_CHECKING:
    from earwitness_bench.listening_test import Imported
    from earwitness_bench.listening_test.ratings import Opinion


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("answers", type=click.Path(path_type=Path), nargs=-1, metavar="[ANSWERS]...")
@click.option("--out", type=click.Path(path_type=Path), metavar="HTML_DIR", help="Write a test into this folder.")
@click.option("--import", "imports", is_flag=True, help="Enter the ANSWERS that raters saved into DIR.")
@click.option("--arena", default="", help="Title of the arena. Default: the first one.")
@click.option("--explainer", "explainers", multiple=True, metavar="NAME", help="Default: the six best.")
@click.option(
    "--clips", type=click.IntRange(min=1), default=10, show_default=True, help="Trials; one more for training."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the choice of clips and of all orders.")
@device_option
@json_option
def listening_test(
    folder: Path,
    answers: tuple[Path, ...],
    out: Path | None,
    imports: bool,
    arena: str,
    explainers: tuple[str, ...],
    clips: int,
    seed: int,
    device: str,
    as_json: bool,
) -> None:
    """Ask people: write a blind test from the results in DIR, or import what they answered.

    HTML_DIR/index.html opens from disk, without a network, or from any web server. It plays the recording, what each
    explainer keeps of it, the recording again (hidden) and a random part of it, under names that say nothing, and saves
    ratings from 0 to 100 as a file. The key to the names stays in DIR.

    Imported ratings are a column of the leaderboard, until the suite is run again. Raters who rate the hidden recording
    below 90 in more than 15 % of the trials do not count (ITU-R BS.1534).

    \b
    Examples:
      earwitness listening-test results --out test
      earwitness listening-test results --import answers-*.json
    """
    if imports == (out is not None) or bool(answers) != imports:
        raise click.UsageError("Give --out HTML_DIR to write a test, or --import and the ANSWERS.")
    if imports:
        from earwitness_bench.listening_test import import_answers

        found = import_answers(folder, answers)
        click.echo(_as_json(folder) if as_json else _as_text(found), nl=False)
        return
    from earwitness_bench.listening_test import write_test
    from earwitness_bench.listening_test.writing import Choice

    assert out is not None
    with progress_bar("making sounds", quiet=as_json) as progress:
        done = write_test(
            folder,
            out,
            registry=current_registry(),
            choice=Choice(arena, explainers, clips, seed),
            device=device,
            progress=progress,
        )
    if as_json:
        facts = {"test": done.test, "trials": done.trials, "sounds": done.sounds, "explainers": done.explainers}
        click.echo(json.dumps({"folder": str(done.folder), "key": str(done.key), **facts}, indent=1))
        return
    click.echo(
        f"{done.trials} trials of {done.sounds} sounds, and one for training: {done.folder / 'index.html'}\n"
        f"Compared: {', '.join(done.explainers)}. The key stays here, keep it from raters: {done.key}"
    )


def _as_json(folder: Path) -> str:
    from earwitness_bench.listening_test import outcome_of
    from earwitness_bench.store import Store

    return json.dumps(outcome_of(Store(folder)), indent=1) + "\n"


def _as_text(found: Imported) -> str:
    rows: list[tuple[str, ...]] = [("", "opinion score", "95 % over raters", "95 % over clips", "ratings")]
    rows += [_line(one) for one in (*found.methods, found.reference, found.anchor)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    screened = f"; not counted, because they missed the hidden recording: {', '.join(found.screened)}"
    said = [
        f"{found.arena}: {found.raters} raters{screened if found.screened else ''}",
        "",
        *lines,
        "",
        f"Krippendorff's alpha of the raters on the methods: {_number(found.alpha, 2)} (1 agreement, 0 chance)",
    ]
    return "\n".join(said) + "\n"


def _line(one: Opinion) -> tuple[str, ...]:
    ends = (" – ".join(_number(end, 1) for end in interval) for interval in (one.over_raters, one.over_clips))
    return (one.name, _number(one.score, 1), *ends, str(one.ratings))


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"
