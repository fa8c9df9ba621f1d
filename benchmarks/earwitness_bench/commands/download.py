"""``earwitness download``: fetch a data set."""

from __future__ import annotations

from pathlib import Path

import click

from earwitness.cli.progress import progress_bar
from earwitness.errors import DatasetError, nearest
from earwitness.specs import load_target

DOWNLOADS = {
    "esc10": "esc10:download",
    "esc50": "esc50:download",
    "medley-solos-db": "medley_solos_db:PUBLISHED.download",
    "speech-commands": "speech_commands:download",
    "urbansound8k": "urbansound8k:PUBLISHED.download",
}
"""What fetches each data set, in ``earwitness_bench.datasets``."""

NO_LICENCE = {
    "gtzan": "its recordings are commercial and nobody has licensed them. Bring a copy of your own, with a folder for "
    "each genre, and put it in EARWITNESS_DATA as 'gtzan' (or name it with folder=...)."
}


@click.command()
@click.argument("dataset", metavar="DATASET")
@click.option("--to", type=click.Path(path_type=Path), metavar="DIR", help="Default: the cache folder.")
def download(dataset: str, to: Path | None) -> None:
    """Fetch DATASET from its publisher. All is checked by checksum before anything is put in place.

    \b
    esc10             40 MB   CC BY 3.0      each file by SHA-256
    esc50            650 MB   CC BY-NC 3.0   each file by MD5; needs: pip install 'earwitness[datasets]'
    medley-solos-db  some GB  CC BY 4.0      the archive by MD5, its publisher gives no other
    speech-commands  2.4 GB   CC BY 4.0      the archive by SHA-256
    urbansound8k       6 GB   CC BY-NC 3.0   the archive by MD5, its publisher gives no other

    Archives are unpacked beside where they go, so twice the room is needed. GTZAN has no licence and cannot be fetched:
    bring a copy of your own. NC means: not for commercial use.

    \b
    Example:
      earwitness download esc10
    """
    if dataset in NO_LICENCE:
        raise DatasetError(f"{dataset} cannot be downloaded: {NO_LICENCE[dataset]}")
    if dataset not in DOWNLOADS:
        raise DatasetError(f"There is no data set {dataset!r} to download. {nearest(dataset, DOWNLOADS)}")
    fetch = load_target(f"earwitness_bench.datasets.{DOWNLOADS[dataset]}", what=f"download of {dataset}")
    with progress_bar(f"downloading {dataset}") as progress:
        folder = fetch(to, progress=lambda done, total: progress(done, total or 0, f"downloading {dataset}"))
    click.echo(f"{dataset} is in {folder}")
