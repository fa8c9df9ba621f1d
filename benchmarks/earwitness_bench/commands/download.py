"""``earwitness download``: fetch a data set."""

from __future__ import annotations

from pathlib import Path

import click

from earwitness.cli.progress import progress_bar


@click.command()
@click.argument("dataset", type=click.Choice(["esc10"]))
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Default: the cache folder.")
def download(dataset: str, to: Path | None) -> None:
    """Fetch DATASET from its publisher. Every file is checked by its checksum before anything is put in place.

    Weights of published classifiers need no command: they are fetched when they are first used, and kept in the folder
    that EARWITNESS_MODELS names, or in the cache folder.

    \b
    Example:
      earwitness download esc10
    """
    from earwitness_bench.datasets import esc10

    folder = to or esc10.cache_folder()
    with progress_bar(f"downloading {dataset}") as progress:
        esc10.download(folder, progress=lambda done, total: progress(done, total or 0, f"downloading {dataset}"))
    click.echo(f"{dataset} is in {folder}")
