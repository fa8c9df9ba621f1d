"""``earwitness prototypes``: what a trained APNet compares recordings with, as a book."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import json_option
from earwitness.cli.progress import progress_bar

if TYPE_CHECKING:
    from earwitness.classifier import AudioClassifier

_OPENING = ("(", "[", "{", "'", '"')  # of a literal that may have commas in it


@click.command("prototypes")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="BOOK", help="Folder for the book.")
@click.option("--dataset", metavar="NAME", help="The training data: the nearest clips are heard too.")
@click.option("--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[1,2,3]".')
@click.option(
    "--judge",
    "judges",
    metavar="NAME",
    multiple=True,
    help="A classifier that says what each prototype sounds like: a name from `earwitness list classifiers`, with "
    'parameters as in "yamnet(regroup=esc10)". May be given several times.',
)
@json_option
def prototypes(
    folder: Path,
    out: Path,
    dataset: str | None,
    dataset_params: tuple[str, ...],
    judges: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write the prototypes of a trained APNet as a book: one folder of HTML with pictures and sounds.

    DIR is the folder that `earwitness fit apnet` left, refined or not. Of every prototype there are its spectrogram,
    its sound, its class, what it says for and against each class, and the training clips that are nearest to it. The
    book opens from disk and needs no network; a book that is in BOOK already is replaced.

    A judge hears the sound of each prototype as the book plays it: how often does it recognise the class? With
    --dataset it hears the nearest training windows too: as recorded, through the mel inversion that makes the
    prototypes' sounds, and through encoder, decoder and inversion.

    \b
    Example:
      earwitness fit apnet --dataset esc10 --dataset-param "folds=[1,2,3]" --out DIR
      earwitness prototypes DIR --dataset esc10 --dataset-param "folds=[1,2,3]" --out book
      earwitness prototypes DIR --judge esc10-cnn --judge yamnet-esc10 --out book
    """
    from earwitness.errors import ConfigurationError
    from earwitness.loading import load_dataset
    from earwitness.parameters import parse_assignments
    from earwitness_plugins.apnet.book import write_book
    from earwitness_plugins.apnet.workshop import Workshop

    plugins = current_registry()
    workshop, clips, listeners = Workshop(folder, plugins), None, _load_judges(judges)
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
            judges=listeners,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps({**book, "folder": str(out)}))
        return
    click.echo(f"{len(book['prototypes'])} prototypes of {len(book['labels'])} classes: open {out / 'index.html'}")
    if book["without_prototypes"]:
        click.echo(f"note: no prototype stands for {', '.join(book['without_prototypes'])}")
    for said in book["recognition"]:
        _say(said)


def _load_judges(texts: tuple[str, ...]) -> dict[str, AudioClassifier]:
    """Judges by how they were named: ``NAME``, or ``NAME(PARAMETER=VALUE,…)``, as a leaderboard writes its titles."""
    from earwitness.errors import ConfigurationError
    from earwitness.loading import load_classifier
    from earwitness.parameters import parse_assignments

    found: dict[str, AudioClassifier] = {}
    for text in texts:
        name, opening, rest = text.strip().partition("(")
        if text in found or (opening and not rest.endswith(")")):
            wrong = "is given twice" if text in found else "has no closing parenthesis"
            raise ConfigurationError(f"The judge {text!r} {wrong}. Write NAME, or NAME(PARAMETER=VALUE,…).")
        parameters = parse_assignments(_assignments(text, rest[:-1])) if rest[:-1].strip() else {}
        found[text] = load_classifier(name.strip(), parameters=parameters, plugins=current_registry())
    return found


def _assignments(judge: str, text: str) -> list[str]:
    """``"a=[1, 2],b=x"`` -> ``["a=[1, 2]", "b=x"]``: a value that begins as a literal ends where it is one."""
    from earwitness.errors import ConfigurationError

    found, pieces = [], text.split(",")
    while pieces:
        assignment = pieces.pop(0)
        while pieces and not _is_whole(assignment):
            assignment += f",{pieces.pop(0)}"
        if "=" not in assignment or not _is_whole(assignment):
            raise ConfigurationError(
                f"The judge {judge!r} cannot be read from {assignment.strip()!r} on. Parameters read NAME=VALUE, with "
                "commas between them; a value that holds brackets, quotes or commas is a Python literal, such as "
                "[1, 2] or 'a, b'."
            )
        found.append(assignment)
    return found


def _is_whole(assignment: str) -> bool:
    """Whether its value is plain text, or a literal that is closed: the next comma is not its own."""
    value = assignment.partition("=")[2].strip()
    if not value.startswith(_OPENING):
        return True
    try:
        ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # all that literal_eval may raise
        return False
    return True


def _say(said: dict[str, Any]) -> None:
    """Print what a judge recognised, for a person."""
    click.echo(f"{said['judge']} recognises {_counted(said['prototypes'])} prototypes; by chance {said['chance']:.0%}")
    if said["nearest"]:
        kinds = ("recorded", "inverted", "reconstructed")
        counts = (said["nearest"], said["nearest_inverted"], said["nearest_reconstructed"])
        texts = [f"{_counted(count)} {kind}" for count, kind in zip(counts, kinds, strict=True)]
        click.echo(f"  of their nearest training windows: {', '.join(texts)}")


def _counted(share: dict[str, Any]) -> str:
    return f"{share['recognised']} of {share['asked']} ({share['share']:.0%})"
