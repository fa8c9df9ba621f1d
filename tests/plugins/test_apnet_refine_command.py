"""``earwitness refine``: a trained network, changed step by step in its folder, and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner, Result

from apnet_toy import N_SAMPLES, PARAMETERS, RATE, write_clips
from earwitness import load_classifier
from earwitness.artifacts import load_tensors
from earwitness.cli.shell import shell
from earwitness.errors import ConfigurationError
from earwitness.fitting import digest_of_data, load_trained, train
from earwitness.loading import load_dataset
from earwitness.registry import registry
from earwitness_plugins.apnet.edits import Delete, Prune, Retrain, prototypes_of
from earwitness_plugins.apnet.explainer import APNet
from earwitness_plugins.apnet.refinement import class_sums
from earwitness_plugins.apnet.workshop import Workshop


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    write_clips(folder, 4)
    return folder


@pytest.fixture(scope="module")
def original(sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network; class blocks see to it that each class has two prototypes."""
    folder = tmp_path_factory.mktemp("trained") / "net"
    data = load_dataset("folder", parameters={"folder": str(sounds)})
    training = {**PARAMETERS["training"], "class_blocks": True, "epochs": 6}
    train(registry(), "apnet", data, folder, parameters={**PARAMETERS, "training": training})
    return folder


@pytest.fixture
def net(original: Path, tmp_path: Path) -> Path:
    """A copy to work on."""
    return Path(shutil.copytree(original, tmp_path / "net"))


@pytest.fixture
def data(sounds: Path) -> tuple[str, ...]:
    return ("--dataset", "folder", "--dataset-param", f"folder={sounds}")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(shell, ["refine", *(str(argument) for argument in arguments)])


def done(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    return str(result.stderr)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "explainer.safetensors")[0]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def apnet(folder: Path) -> APNet:
    loaded = load_trained(registry(), folder)
    assert isinstance(loaded, APNet)
    return loaded


def sums(folder: Path) -> torch.Tensor:
    return class_sums(prototypes_of(apnet(folder).trained))


def test_every_edit_changes_the_network_in_use_and_every_undo_brings_it_back(net: Path, data: tuple[str, ...]) -> None:
    """And another folder of the same network, edited by replay, ends with the same weights, to the bit."""
    fresh = Path(shutil.copytree(net, net.parent / "fresh"))
    states = [tensors(net)]
    commands: list[tuple[tuple[object, ...], int]] = [
        (("delete", net, 1), 5),
        (("add", net, *data, "--clip", "low/3.wav"), 6),
        (("rebalance", net), 6),
        (("prune-channels", net, "--channels", 1, "--decoder", "sliced"), 6),
        (("retrain", net, *data, "--epochs", 2), 6),
    ]
    for number, (command, n_prototypes) in enumerate(commands, start=1):
        said = done(*command)
        assert said["step"] == number
        assert said["after"]["prototypes"] == n_prototypes
        states.append(tensors(net))
        assert not equal(states[-1], states[-2]) or command[0] == "rebalance"
        parameters = apnet(net).trained.n_parameters
        assert said["after"]["parameters"] == parameters
        classifier = load_classifier("apnet", parameters={"weights": str(net)})
        assert sum(p.numel() for p in classifier.network.parameters()) == parameters
    assert said["after"]["channels"] == 2
    listed = done("history", net)
    assert [edit["edit"] for edit in listed["edits"]] == ["delete", "add", "rebalance", "prune-channels", "retrain"]

    assert "say on which data" in refused("replay", fresh, "--from", net)
    for _ in done("history", fresh)["edits"]:
        done("undo", fresh)
    assert equal(tensors(fresh), states[0])
    done("replay", fresh, "--from", net, *data)
    assert equal(tensors(fresh), states[-1])
    assert "Undo them first" in refused("replay", fresh, "--from", net, *data)

    for state in reversed(states[:-1]):
        done("undo", net)
        assert equal(tensors(net), state)
    assert "nothing to undo" in refused("undo", net)


def test_a_replay_that_stopped_goes_on_where_it_was(net: Path, data: tuple[str, ...]) -> None:
    fresh = Path(shutil.copytree(net, net.parent / "fresh"))
    done("delete", net, 1)
    done("retrain", net, *data, "--epochs", 1)
    done("delete", net, 2)
    assert "say on which data" in refused("replay", fresh, "--from", net)
    assert [edit["edit"] for edit in done("history", fresh)["edits"]] == ["delete"]
    assert "replayed 2 edits" in done("replay", fresh, "--from", net, *data)["said"]
    assert equal(tensors(fresh), tensors(net))
    done("undo", fresh)
    done("delete", fresh, 3)
    assert "Undo them first" in refused("replay", fresh, "--from", net, *data)


def test_another_recording_by_the_name_of_a_prototype_is_refused(
    net: Path, data: tuple[str, ...], tmp_path: Path
) -> None:
    """A replay would make the second recording both prototypes."""
    write_clips(tmp_path / "others", 4, start=1)
    (tmp_path / "others" / "low" / "2.wav").rename(tmp_path / "others" / "low" / "0.wav")
    others = ("--dataset", "folder", "--dataset-param", f"folder={tmp_path / 'others'}")
    done("add", net, *data, "--clip", "low/0.wav")
    state = tensors(net)
    assert "Another recording called 'low/0.wav'" in refused("add", net, *others, "--clip", "low/0.wav")
    assert equal(tensors(net), state)
    done("add", net, *data, "--clip", "low/0.wav")  # the same one may be added again
    done("undo", net)
    done("undo", net)
    done("add", net, *others, "--clip", "low/0.wav")


def test_the_validation_data_are_the_same_data_set_with_other_parameters(
    net: Path, sounds: Path, tmp_path: Path
) -> None:
    write_clips(tmp_path / "held-out", 1, start=7)
    data = ("--dataset", "folder", "--dataset-param", f"folder={sounds}")
    held_out = ("--validation-param", f"folder={tmp_path / 'held-out'}")
    done("retrain", net, *data, *held_out, "--epochs", 2)
    (edit,) = Workshop(net, registry()).history.edits
    assert isinstance(edit, Retrain)
    wanted = [digest_of_data(load_dataset("folder", parameters={"folder": str(folder)})) for folder in (
        sounds, tmp_path / "held-out",
    )]  # fmt: skip
    assert [edit.train, edit.validation] == wanted
    assert len(apnet(net).trained.curves.validation_accuracy) == 2


def test_before_and_after_stand_in_one_table(net: Path, data: tuple[str, ...]) -> None:
    done("delete", net, 1)
    found = done("evaluate", net, *data)
    assert [(row["step"], row["prototypes"]) for row in found["steps"]] == [(0, 6), (1, 5)]
    before, after = (row["parameters"] for row in found["steps"])
    assert before - after == 3 * 4 * 4 + 4 + 3  # a prototype, its row of H and its row of W
    classifier = apnet(net).as_classifier()
    dataset = load_dataset("folder", parameters={"folder": data[-1].removeprefix("folder=")})
    right = [
        classifier.labels[int(classifier.probabilities(dataset[i].resampled(RATE).waveform[None]).argmax())]
        in dataset[i].labels
        for i in range(len(dataset))
    ]
    assert found["steps"][1]["accuracy"] == pytest.approx(sum(right) / len(right))
    text = run("evaluate", net, *data).stdout.splitlines()
    assert text[0].split() == ["step", "prototypes", "parameters", "accuracy", "on", "12", "clips"]
    assert text[1].endswith("as trained")
    assert text[2].endswith("prototype 1 deleted")


def test_pruning_is_recorded_with_its_rule(net: Path) -> None:
    workshop = Workshop(net, registry())
    trained = workshop.trained
    trained.network.prototypes.data[1] = trained.network.prototypes.data[0] + 1e-3  # of one class
    for j in range(2, 6):
        trained.network.prototypes.data[j].view(-1)[8 * j : 8 * (j + 1)] += 10  # far from all others
    workshop.do(Delete(5))  # which writes the network as it is
    for rule in ("code", "paper"):
        said = done("prune", net, "--rule", rule)
        assert said["after"]["prototypes"] == 4
        assert done("history", net)["edits"][-1] == {"edit": "prune", "rule": rule, "closeness": 0.5}
        done("undo", net)


def test_where_nothing_is_redundant_nothing_is_recorded(net: Path) -> None:
    for number in (1, 2, 3):  # one of each class is left
        done("delete", net, number)
    for rule in ("code", "paper"):
        said = done("prune", net, "--rule", rule)
        assert (said["step"], said["said"]) == (3, "no prototype is redundant")


def test_balancing_undoes_what_pruning_took_from_a_class(net: Path) -> None:
    before = sums(net)
    workshop = Workshop(net, registry())
    workshop.trained.network.prototypes.data[1] = workshop.trained.network.prototypes.data[0] + 1e-3
    workshop.do(Prune("code"))
    assert not torch.allclose(sums(net), before)
    done("rebalance", net)
    assert torch.allclose(sums(net), before)


def test_the_last_prototype_of_a_class_stays(net: Path, data: tuple[str, ...]) -> None:
    assert len(done("history", net)["edits"]) == 0
    done("delete", net, 1)
    state = tensors(net)
    said = refused("delete", net, 1)
    assert "Prototype 1 is the last of 'high'" in said
    assert "earwitness refine add" in said
    assert equal(tensors(net), state)
    done("add", net, *data, "--clip", "high/0.wav")
    done("delete", net, 1)  # now it may go
    assert "numbered 1 to 5" in refused("delete", net, 6)


def test_a_clip_becomes_the_prototype_that_is_nearest_to_it(net: Path, data: tuple[str, ...], sounds: Path) -> None:
    done("add", net, *data, "--clip", "high/2.wav")
    learnt = apnet(net).trained
    assert learnt.gallery is not None
    (own,) = [j for j, row in enumerate(learnt.gallery.nearest) if len(row) == 1]
    assert learnt.labels[int(learnt.gallery.classes[own])] == "high"
    samples, _ = soundfile.read(sounds / "high" / "2.wav", dtype="float32")
    classifier = apnet(net).as_classifier()
    features = classifier.features(torch.from_numpy(samples)[None])
    distances = learnt.network.distances(learnt.network.encoder(features)).sum(2)[0]
    assert int(distances.argmin()) == own
    assert float(distances[own].detach()) == pytest.approx(0, abs=1e-4)


def test_a_retraining_that_was_killed_goes_on(net: Path, sounds: Path) -> None:
    class Killed(BaseException):
        """Stands for a kill."""

    from earwitness_plugins.apnet.retraining import Retraining

    dataset = load_dataset("folder", parameters={"folder": str(sounds)})

    def retrained(folder: Path, progress: Callable[..., None]) -> None:
        workshop = Workshop(folder, registry())
        retraining = Retraining(
            workshop.apnet.configuration, workshop.apnet.recipe, dataset, dataset, torch.device("cpu"),
            workshop.refinement, progress,
        )  # fmt: skip
        workshop.do(retraining.edit(epochs=3, learning_rate=None, seed=0), retrain=retraining)

    def killer(done: int, total: int, text: str) -> None:
        if done == 2 and text.startswith("loss"):
            raise Killed

    whole = Path(shutil.copytree(net, net.parent / "whole"))
    retrained(whole, lambda *_: None)
    with pytest.raises(Killed):
        retrained(net, killer)
    assert (net / "refinement" / "checkpoint.safetensors").exists()
    assert Workshop(net, registry()).history.edits == ()
    data = ("--dataset", "folder", "--dataset-param", f"folder={sounds}")
    assert "belongs to another fit" in refused("retrain", net, *data, "--epochs", 9)
    retrained(net, lambda *_: None)
    assert equal(tensors(net), tensors(whole))
    assert not (net / "refinement" / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("killed_before", ["replace_tensors", "write_json"])
def test_a_command_that_was_killed_leaves_a_network_that_can_be_used(
    net: Path, monkeypatch: pytest.MonkeyPatch, killed_before: str
) -> None:
    class Killed(BaseException):
        """Stands for a kill."""

    def kill(*_: Any) -> None:
        raise Killed

    before = tensors(net)
    with monkeypatch.context() as patched:
        patched.setattr(f"earwitness_plugins.apnet.workshop.{killed_before}", kill)
        with pytest.raises(Killed):
            Workshop(net, registry()).do(Delete(0))
    edits = Workshop(net, registry()).history.edits
    assert edits == ((Delete(0),) if killed_before == "replace_tensors" else ())
    assert equal(tensors(net), before) == (not edits)
    assert len(tensors(net)["network/prototypes"]) == 6 - len(edits)


def test_a_history_that_does_not_belong_or_is_damaged_is_refused(net: Path, original: Path, tmp_path: Path) -> None:
    assert "has no history" in refused("replay", net, "--from", original)
    done("delete", net, 1)
    other = Path(shutil.copytree(original, tmp_path / "other"))
    changed = Workshop(other, registry())
    changed.trained.network.class_weights.data += 1
    changed.do(Delete(0))
    shutil.copytree(net / "refinement", tmp_path / "kept")
    shutil.rmtree(net / "refinement")
    shutil.copytree(other / "refinement", net / "refinement")
    assert "none of those in its history" in refused("undo", net)
    shutil.rmtree(net / "refinement")
    shutil.copytree(tmp_path / "kept", net / "refinement")
    (net / "refinement" / "step-000.safetensors").write_bytes(b"nothing")
    assert "its checksum does not match" in refused("undo", net)
    (net / "refinement" / "history.json").write_text("{")
    assert "history.json is damaged" in refused("undo", net)


def test_a_replay_needs_the_data_of_the_history(net: Path, sounds: Path, tmp_path: Path) -> None:
    workshop = Workshop(net, registry())
    write_clips(tmp_path / "fewer", 2)
    fewer = ("--dataset", "folder", "--dataset-param", f"folder={tmp_path / 'fewer'}")
    fresh = Path(shutil.copytree(net, tmp_path / "fresh"))
    data = ("--dataset", "folder", "--dataset-param", f"folder={sounds}")
    done("retrain", net, *data, "--epochs", 1)
    assert "on other data than these" in refused("replay", fresh, "--from", net, *fewer)
    with pytest.raises(ConfigurationError, match="say on which data"):
        workshop.do(Retrain(1, 0.1, 0, "data"))


def test_what_cannot_be_done_is_refused_in_one_sentence(net: Path, data: tuple[str, ...], tmp_path: Path) -> None:
    assert "no clip 'low/33.wav' among its 12. Did you mean" in refused("add", net, *data, "--clip", "low/33.wav")
    assert "for example, " in refused("add", net, *data, "--clip", "?")
    (tmp_path / "odd" / "unheard").mkdir(parents=True)
    (tmp_path / "odd" / "low").mkdir()
    soundfile.write(tmp_path / "odd" / "unheard" / "0.wav", torch.rand(N_SAMPLES).numpy() / 2, RATE)
    soundfile.write(tmp_path / "odd" / "low" / "silent.wav", torch.zeros(N_SAMPLES).numpy(), RATE)
    odd = ("--dataset", "folder", "--dataset-param", f"folder={tmp_path / 'odd'}")
    assert "of one class that the network knows" in refused("add", net, *odd, "--clip", "unheard/0.wav")
    assert "is silent" in refused("add", net, *odd, "--clip", "low/silent.wav")
    assert "From 1 to 2 of 3 channels" in refused("prune-channels", net)
    assert "holds no fitted explainer" in refused("prune", tmp_path / "nowhere")
    (tmp_path / "converted").write_text("")
    assert "is a file. A fit leaves a folder" in refused("prune", tmp_path / "converted")
    for rate in ("inf", "nan", "-1"):
        assert "A learning rate is a positive number" in refused("retrain", net, *data, "--learning-rate", rate)
    for command in ("retrain", "evaluate"):
        assert "The device 'gramophone' cannot be used" in refused(command, net, *data, "--device", "gramophone")
    assert not (net / "refinement").exists()


def test_the_help_of_every_command_teaches() -> None:
    listed = run("--help").stdout
    for name in (
        "prune", "prune-channels", "delete", "add", "rebalance", "retrain", "evaluate", "undo", "history", "replay",
    ):  # fmt: skip
        assert f"  {name} " in listed
        text = run(name, "--help").stdout
        assert len(text.split("Options:")[0]) > 80
        assert "--json" in text
