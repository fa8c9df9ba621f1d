"""Weights from strangers: loaded when they fit, refused with a reason, and never executed."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from earwitness.artifacts import load_tensors, save_tensors, write_atomically, write_json
from earwitness.errors import CheckpointError, ClassifierError, StoreError
from earwitness.weights import load_weights, read_weights
from networks import SmallCNN

NAMES = ("weights.pt", "weights.pth", "weights.pkl", "weights.bin", "weights.safetensors")


class Touch:
    """Unpickling it makes a file: the mildest thing that code in a pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


class Shell(Touch):
    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- what is read


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_from_torch_save_is_read(tmp_path: Path, name: str, legacy: bool) -> None:
    torch.save(SmallCNN(seed=4).state_dict(), tmp_path / name, _use_new_zipfile_serialization=not legacy)
    network = SmallCNN(seed=0)
    assert load_weights(network, tmp_path / name) is network
    assert same(network.state_dict(), SmallCNN(seed=4).state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_safetensors_are_read_whatever_their_name(tmp_path: Path, name: str) -> None:
    save_file(SmallCNN(seed=4).state_dict(), tmp_path / name)
    assert same(read_weights(tmp_path / name), SmallCNN(seed=4).state_dict())
    assert same(read_weights(str(tmp_path / name)), SmallCNN(seed=4).state_dict())


# --- code in a pickle


def plain_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def torch_save(content: object, path: Path) -> None:
    torch.save(content, path)


def legacy_torch_save(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("save", [plain_pickle, torch_save, legacy_torch_save])
@pytest.mark.parametrize("bomb", [Touch, Shell])
@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"weight": torch.ones(2), "extra": bomb}])
def test_code_in_a_pickle_is_never_executed(
    tmp_path: Path,
    name: str,
    save: Callable[[object, Path], None],
    bomb: type[Touch],
    wrap: Callable[[Touch], object],
) -> None:
    mark = tmp_path / "executed"
    save(wrap(bomb(mark)), tmp_path / name)
    with pytest.raises(CheckpointError, match="not executed"):
        load_weights(SmallCNN(), tmp_path / name)
    with pytest.raises(CheckpointError):
        load_tensors(tmp_path / name)
    assert not mark.exists()


def test_the_pickles_of_these_tests_would_run_if_they_were_loaded(tmp_path: Path) -> None:
    for number, bomb in enumerate((Touch, Shell)):
        mark = tmp_path / f"executed-{number}"
        pickle.loads(pickle.dumps(bomb(mark)))
        assert mark.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"save_file\(model\.state_dict\(\)"):
        read_weights(tmp_path / "model.pt")


# --- damaged, or something else


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 9, b"RIFF....WAVEfmt ", b"PK\x03\x04 no zip", b"\xff" * 64])
def test_what_is_no_weights_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str, share: float) -> None:
    state = SmallCNN().state_dict()
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save(state, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / name)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("letter.txt", "dear sir")
    with pytest.raises(CheckpointError, match="not a readable weights file"):
        read_weights(tmp_path / "weights.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pt", tmp_path / "nothing.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="There is no weights file"):
            read_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"weight": torch.ones(2)}, "epoch": 3}, "'state_dict' is a dict, not a tensor"),
        ([torch.ones(2)], "but a list"),
        (torch.ones(2), "but a Tensor"),
    ],
)
def test_a_file_that_holds_more_or_less_than_a_state_dict_says_what_it_holds(
    tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(CheckpointError, match=message):
        read_weights(tmp_path / "weights.pt")


# --- of another network


def changed(**changes: Tensor | None) -> dict[str, Tensor]:
    state = {**SmallCNN(seed=4).state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed(head__bias=None), r"1 tensors missing \(such as head\.bias\)"),
        (changed(extra=torch.ones(1)), r"1 unknown tensors \(such as extra\)"),
        (
            changed(head__weight=torch.ones(5, 8)),
            r"of another shape \(such as head\.weight \(5, 8\) instead of \(3, 8\)\)",
        ),
        (nn.Linear(3, 4).state_dict(), r"missing \(.*unknown tensors"),
        ({}, "tensors missing"),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_loaded(
    tmp_path: Path, state: dict[str, Tensor], message: str
) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    network = SmallCNN(seed=0)
    with pytest.raises(ClassifierError, match=f"weights of another network than SmallCNN: .*{message}"):
        load_weights(network, tmp_path / "weights.safetensors")
    assert same(network.state_dict(), SmallCNN(seed=0).state_dict())


# --- written whole or not at all


def test_tensors_and_their_document_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).reshape(2, 3).T, "b": torch.ones((), dtype=torch.float64), "c": torch.ones(0, 2)}
    tensors["alias"] = tensors["a"]
    save_tensors(tmp_path / "deep" / "x.safetensors", tensors, {"chunk": 3, "names": ["é"]})
    loaded, document = load_tensors(tmp_path / "deep" / "x.safetensors")
    assert same(loaded, tensors)
    assert document == {"chunk": 3, "names": ["é"]}


def test_a_document_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"earwitness": "[1]"})
    with pytest.raises(CheckpointError, match="its document is a list"):
        load_tensors(tmp_path / "x.safetensors")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    before = path.read_bytes()

    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
