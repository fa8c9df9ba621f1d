"""``earwitness refine``: prune, edit, retrain and undo an APNet's prototypes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from earwitness.cli.commands import Commands
from earwitness.cli.context import current_registry
from earwitness.cli.options import device_option, json_option, seed_option
from earwitness.cli.progress import progress_bar

if TYPE_CHECKING:
    from earwitness_plugins.apnet.edits import Edit
    from earwitness_plugins.apnet.retraining import Retraining
    from earwitness_plugins.apnet.trained import TrainedAPNet
    from earwitness_plugins.apnet.workshop import Workshop

F = TypeVar("F", bound=Callable[..., Any])

_FOLDER = click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
_RULE = click.option(
    "--rule", type=click.Choice(["code", "paper"]), default="code", show_default=True, help="Where the two differ."
)


def _data(*, required: bool) -> Callable[[F], F]:
    """``--dataset`` and ``--dataset-param``."""

    def decorated(command: F) -> F:
        for option in (
            click.option(
                "--dataset-param", "dataset_params", metavar="NAME=VALUE", multiple=True, help='Such as "folds=[4]".'
            ),
            click.option("--dataset", required=required, metavar="NAME", help="See `earwitness list datasets`."),
        ):
            command = option(command)
        return command

    return decorated


def _training(*, required: bool) -> Callable[[F], F]:
    """What a training needs: data, validation data and a device."""

    def decorated(command: F) -> F:
        for option in (
            device_option,
            click.option(
                "--validation-param",
                "validation_params",
                metavar="NAME=VALUE",
                multiple=True,
                help="The same data set with these parameters instead decides which epoch is kept.",
            ),
        ):
            command = option(command)
        return _data(required=required)(command)

    return decorated


@click.group("refine", cls=Commands)
def refine() -> None:
    """Refine the prototypes of a trained APNet, step by step.

    DIR is the folder that `earwitness fit apnet` left. Each edit changes the network in it, which is the one that
    `earwitness explain`, `earwitness prototypes` and the benchmark use from then on. Every step is kept in
    DIR/refinement, so that it can be undone and replayed. Prototypes are numbered as in the prototype book.

    \b
    Example:
      earwitness prototypes DIR --out book                          see and hear them first
      earwitness refine prune DIR                                   leave out what is redundant
      earwitness refine delete DIR 7                                leave out what sounds wrong
      earwitness refine retrain DIR --dataset esc10 --dataset-param "folds=[1,2,3]"
      earwitness refine evaluate DIR --dataset esc10 --dataset-param "folds=[4]"
      earwitness refine undo DIR
    """


@refine.command()
@_FOLDER
@_RULE
@click.option(
    "--closeness",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    help="Less leaves fewer out; see above.",
)
@json_option
def prune(folder: Path, rule: Any, closeness: float, as_json: bool) -> None:
    """Leave out prototypes that are too close to another one.

    Close is a squared distance below its minimum plus its mean over all pairs times the closeness. By the code's
    rule a prototype goes if its nearest neighbour is close and of its class, unless another one went for it before;
    by the paper's rule one of each close pair goes, of whatever classes. No class loses its last prototype. Of what
    is left, some pair is the closest again, so giving the command twice leaves out more: look at the accuracy in
    between.
    """
    from earwitness_plugins.apnet.edits import Prune, prototypes_of
    from earwitness_plugins.apnet.refinement import redundant_prototypes

    workshop = _workshop(folder)
    if not bool(redundant_prototypes(prototypes_of(workshop.trained), rule, closeness=closeness).any()):
        _say(workshop, workshop.trained, None, as_json, "no prototype is redundant")
        return
    _do(workshop, Prune(rule, closeness), as_json)


@refine.command("prune-channels")
@_FOLDER
@click.option("--channels", "n_channels", type=click.IntRange(1), default=8, show_default=True, help="To leave out.")
@_RULE
@click.option(
    "--decoder",
    type=click.Choice(["anew", "sliced"]),
    default="anew",
    show_default=True,
    help="How it starts: at random, as in the code, or as it was, without these channels.",
)
@seed_option
@json_option
def prune_channels(folder: Path, n_channels: int, rule: Any, decoder: Any, seed: int, as_json: bool) -> None:
    """Leave out channels of the latent map that say what another one says. Then retrain.

    By the code's rule each prototype's channels are compared with each other; by the paper's, all with those of all
    prototypes. The pictures and sounds of the prototypes stay as they were until the network is trained again.
    """
    from earwitness_plugins.apnet.edits import PruneChannels

    _do(_workshop(folder), PruneChannels(n_channels, rule, decoder, seed), as_json)


@refine.command()
@_FOLDER
@click.argument("number", type=click.IntRange(1))
@json_option
def delete(folder: Path, number: int, as_json: bool) -> None:
    """Delete prototype NUMBER, as counted in the prototype book.

    What its class weighs in the classifier goes to the other prototypes of the class. The last one of a class cannot be
    deleted: add another one first.
    """
    from earwitness_plugins.apnet.edits import Delete

    workshop = _workshop(folder)
    _check_deletable(workshop.trained, number)
    _do(workshop, Delete(number - 1), as_json)


@refine.command()
@_FOLDER
@_data(required=True)
@click.option("--clip", "clip_id", required=True, metavar="ID", help="Of the clip that becomes a prototype.")
@json_option
def add(folder: Path, dataset: str, dataset_params: tuple[str, ...], clip_id: str, as_json: bool) -> None:
    """Turn a clip of a data set into a prototype of its class.

    Of a clip that is longer than the network's window, the loudest window is taken. The new prototype weighs for its
    class what prototypes weigh for a class on average, and all of the class together what they weighed before.
    """
    from earwitness_plugins.apnet.data import loudest_window
    from earwitness_plugins.apnet.edits import Add

    workshop = _workshop(folder)
    clip, label = _clip(_load(dataset, dataset_params), clip_id, workshop.trained.labels)
    trained, configuration = workshop.trained, workshop.apnet.configuration
    window = loudest_window(clip, configuration.front_end(trained.min_db, trained.max_db), configuration)
    _do(workshop, Add(clip_id, label), as_json, clips={clip_id: window})


@refine.command()
@_FOLDER
@json_option
def rebalance(folder: Path, as_json: bool) -> None:
    """Make the prototypes of each class weigh together what they weighed when the network was last trained.

    Deleting and adding do this by themselves, pruning does not.
    """
    from earwitness_plugins.apnet.edits import Rebalance

    _do(_workshop(folder), Rebalance(), as_json)


@refine.command()
@_FOLDER
@_training(required=True)
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True, help="The paper's 20.")
@click.option("--learning-rate", type=float, help="Default: that of the training.")
@seed_option
@json_option
def retrain(
    folder: Path, epochs: int, learning_rate: float | None, seed: int, device: str, as_json: bool, **data: Any
) -> None:
    """Train the network on, and decode its prototypes anew.

    With --validation-param the epoch with the best accuracy there is kept, else the last. A training that was killed
    goes on when the same command is given again.
    """
    workshop = _workshop(folder)
    with progress_bar("training on", quiet=as_json) as progress:
        retraining = _retraining(workshop, data, device, progress)
        edit = retraining.edit(epochs=epochs, learning_rate=learning_rate, seed=seed)
        _do(workshop, edit, as_json, retrain=retraining)


@refine.command()
@_FOLDER
@_data(required=True)
@device_option
@json_option
def evaluate(folder: Path, dataset: str, dataset_params: tuple[str, ...], device: str, as_json: bool) -> None:
    """Before and after: prototypes, parameters and accuracy of the network at every step.

    Look at data that the network was not trained on.
    """
    from earwitness.device import usable_device
    from earwitness_plugins.classifiers.evaluation import evaluate as evaluated

    place = usable_device(device)
    workshop, rows = _workshop(folder), []
    data = _load(dataset, dataset_params)
    with progress_bar("evaluating", quiet=as_json) as progress:
        for step in workshop.steps():
            classifier = step.trained.as_classifier(workshop.apnet.configuration).to(place)
            found = evaluated(classifier, data, batch_size=16, progress=progress)
            said = "as trained" if step.edit is None else step.edit.describe(workshop.trained.labels)
            rows.append({"step": step.number, "edit": said, **_facts(step.trained), "accuracy": found.accuracy})
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "clips": len(data), "steps": rows}, indent=1))
        return
    click.echo(f"{'step':>4}  {'prototypes':>10}  {'parameters':>12}  {'accuracy':>8}  on {len(data)} clips")
    for row in rows:
        numbers = f"{row['step']:>4}  {row['prototypes']:>10}  {row['parameters']:>12,}  {row['accuracy']:>8.1%}"
        click.echo(f"{numbers}  {row['edit']}")


@refine.command()
@_FOLDER
@json_option
def undo(folder: Path, as_json: bool) -> None:
    """Take back the last edit. The network is what it was before, to the bit."""
    workshop = _workshop(folder)
    before = workshop.trained
    edit = workshop.undo()
    _say(workshop, before, edit, as_json, f"undone: {edit.describe(workshop.trained.labels)}")


@refine.command()
@_FOLDER
@json_option
def history(folder: Path, as_json: bool) -> None:
    """What was done, step by step, and how large the network was after each. With --json, the record itself."""
    workshop = _workshop(folder)
    if as_json:
        click.echo(json.dumps(workshop.history.document(), indent=1))
        return
    for step in workshop.steps():
        facts = _facts(step.trained)
        said = "as trained" if step.edit is None else step.edit.describe(workshop.trained.labels)
        click.echo(f"{step.number:>4}  {facts['prototypes']} prototypes, {facts['parameters']:,} parameters: {said}")


@refine.command()
@_FOLDER
@click.option(
    "--from", "origin", type=click.Path(path_type=Path), required=True, metavar="OTHER", help="A refined folder."
)
@_training(required=False)
@json_option
def replay(folder: Path, origin: Path, device: str, as_json: bool, **data: Any) -> None:
    """Do in DIR what was done in OTHER. Both began with the same network.

    The clips that became prototypes are in OTHER; the data of a retraining must be named again. A replay that stopped
    goes on when the same command is given again.
    """
    from earwitness_plugins.apnet.workshop import no_data

    workshop = _workshop(folder)
    done = []
    with progress_bar("replaying", quiet=as_json) as progress:
        retrain = _retraining(workshop, data, device, progress) if data["dataset"] else None
        before = workshop.trained
        for edit in workshop.replay(origin, retrain=retrain or no_data):
            done.append(edit.describe(workshop.trained.labels))
    _say(workshop, before, None, as_json, f"replayed {len(done)} edits: {'; '.join(done)}")


def _workshop(folder: Path) -> Workshop:
    from earwitness_plugins.apnet.workshop import Workshop

    return Workshop(folder, current_registry())


def _load(dataset: str, parameters: tuple[str, ...], changes: tuple[str, ...] = ()) -> Any:
    from earwitness.loading import load_dataset
    from earwitness.parameters import parse_assignments

    changed = {**parse_assignments(parameters), **parse_assignments(changes)}
    return load_dataset(dataset, parameters=changed, plugins=current_registry())


def _retraining(workshop: Workshop, data: dict[str, Any], device: str, progress: Any) -> Retraining:
    from earwitness.device import usable_device
    from earwitness_plugins.apnet.retraining import Retraining

    named, validation = data["dataset"], None
    if data["validation_params"]:
        validation = _load(named, data["dataset_params"], data["validation_params"])
    return Retraining(
        workshop.apnet.configuration,
        workshop.apnet.recipe,
        _load(named, data["dataset_params"]),
        validation,
        usable_device(device),
        workshop.refinement,
        progress,
    )


def _clip(data: Any, clip_id: str, labels: tuple[str, ...]) -> tuple[Any, int]:
    """A clip and the number of its class."""
    from earwitness.errors import DatasetError, nearest

    numbers = {entry.clip_id: number for number, entry in enumerate(data.entries)}
    if clip_id not in numbers:
        raise DatasetError(f"The data set has no clip {clip_id!r} among its {len(numbers)}. {_some(clip_id, numbers)}")
    own = data.entries[numbers[clip_id]].labels
    if len(own) != 1 or own[0] not in labels:
        known = nearest(own[0], labels) if own else "Choose a clip that has one."
        raise DatasetError(f"A prototype is of one class that the network knows; {clip_id!r} is of {own}. {known}")
    return data[numbers[clip_id]], labels.index(own[0])


def _some(wrong: str, names: Any) -> str:
    from earwitness.errors import nearest

    hint = nearest(wrong, names)
    return hint if hint.startswith("Did") else f"Its clips are called, for example, {', '.join(list(names)[:3])}."


def _check_deletable(trained: TrainedAPNet, number: int) -> None:
    """In the user's words, what :func:`~.refinement.delete_prototype` would say by number."""
    from earwitness.errors import ConfigurationError

    gallery = trained.gallery
    assert gallery is not None
    if number > len(gallery):
        raise ConfigurationError(f"There is no prototype {number}: they are numbered 1 to {len(gallery)}.")
    own = gallery.classes[number - 1]
    if int((gallery.classes == own).sum()) == 1:
        raise ConfigurationError(
            f"Prototype {number} is the last of {trained.labels[int(own)]!r}: without it, nothing would speak for that "
            "class. Turn a recording of it into a prototype first (earwitness refine add)."
        )


def _do(workshop: Workshop, edit: Edit, as_json: bool, **material: Any) -> None:
    before = workshop.trained
    workshop.do(edit, **material)
    _say(workshop, before, edit, as_json, edit.describe(workshop.trained.labels))


def _facts(trained: TrainedAPNet) -> dict[str, int]:
    sizes = trained.network.sizes
    return {"prototypes": sizes.n_prototypes, "channels": sizes.channels[2], "parameters": trained.n_parameters}


def _say(workshop: Workshop, before: TrainedAPNet, edit: Edit | None, as_json: bool, said: str) -> None:
    """What came of a command."""
    then, now, step = _facts(before), _facts(workshop.trained), len(workshop.history.edits)
    absent = workshop.trained.gallery.unrepresented(workshop.trained.labels) if workshop.trained.gallery else ()
    if as_json:
        document = {"folder": str(workshop.folder), "step": step, "said": said, "before": then, "after": now}
        click.echo(json.dumps({**document, "without_prototypes": list(absent)}))
        return
    click.echo(said)
    changes = [f"{name} {then[name]:,} -> {now[name]:,}" for name in then if then[name] != now[name]]
    click.echo(f"step {step}: {', '.join(changes) or 'prototypes and parameters are as many as before'}")
    if absent:
        click.echo(f"note: no prototype stands for {', '.join(absent)}")
