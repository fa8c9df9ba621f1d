"""``earwitness prototypes``: what a trained APNet compares recordings with, as a book."""

from __future__ import annotations

import json
from pathlib import Path

import click

from earwitness.cli.context import current_registry
from earwitness.cli.progress import progress_bar


@click.command("prototypes")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="BOOK", help="Folder for the book.")
@click.option("--dataset", metavar="NAME", help="The training data: the nearest clips are heard too.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[1,2,3]".')
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
def prototypes(folder: Path, out: Path, dataset: str | None, dataset_params: tuple[str, ...], as_json: bool) -> None:
    """Write the prototypes of a trained APNet as a book: one folder of HTML with pictures and sounds.

    DIR is the folder that `earwitness fit apnet` left, refined or not. Of every prototype there are its spectrogram,
    its sound, its class, what it says for and against each class, and the training clips that are nearest to it. The
    book opens from disk and needs no network; a book that is in BOOK already is replaced.

    \b
    Example:
      earwitness fit apnet --dataset esc10 --dataset-param "folds=[1,2,3]" --out DIR
      earwitness prototypes DIR --dataset esc10 --dataset-param "folds=[1,2,3]" --out book
    """
    from earwitness.errors import ConfigurationError
    from earwitness.loading import load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_plugins.apnet.book import write_book
    from earwitness_plugins.apnet.workshop import Workshop

    plugins = current_registry()
    workshop, clips = Workshop(folder, plugins), None
    if dataset is not None:
        clips = load_dataset(dataset, parameters=parse_assignments(dataset_params), plugins=plugins)
    elif dataset_params:
        raise ConfigurationError("--dataset-param belongs to a data set: name it with --dataset.")
    with progress_bar("writing the book", quiet=as_json) as progress:
        book = write_book(
            out,
            workshop.trained,
            workshop.apnet.configuration,
            history=workshop.history,
            clips=clips,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({**book, "folder": str(out)}))
        return
    click.echo(f"{len(book['prototypes'])} prototypes of {len(book['labels'])} classes: open {out / 'index.html'}")
    if book["without_prototypes"]:
        click.echo(f"note: no prototype stands for {', '.join(book['without_prototypes'])}")
