"""``earwitness report``: results as pages to be read, seen and heard."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import device_option, json_option
from earwitness.cli.progress import progress_bar


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="HTML_DIR", help="Folder of the report.")
@click.option("--clips", type=click.IntRange(min=0), default=80, show_default=True, help="With sounds, in each arena.")
@click.option(
    "--max-mb", type=click.FloatRange(min=1), default=30.0, show_default=True, help="Size of the whole folder."
)
@device_option
@json_option
def report(folder: Path, out: Path, clips: int, max_mb: float, device: str, as_json: bool) -> None:
    """Write the results in DIR as one folder of static pages.

    HTML_DIR/index.html opens from disk, without a network: leaderboards with intervals, critical-difference diagrams,
    curves, a page for each explainer and each clip with recording, heard and rest, failures with reasons, provenance.
    Beside it lie leaderboard.md and leaderboard.tex.

    \b
    Example:
      earwitness report results --out report
    """
    from earwitness_bench.report import write_report

    with progress_bar("making sounds and pictures", quiet=as_json) as progress:
        done = write_report(
            folder,
            out,
            registry=current_registry(),
            clips=clips,
            max_mb=max_mb,
            device=device,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({**asdict(done), "folder": str(done.folder)}, indent=1))
        return
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{done.pages} pages and {done.sounds} sounds, {done.size_mb:.1f} MB: {done.folder / 'index.html'}")
