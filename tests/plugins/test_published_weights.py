"""Weights of others: found, checked, or fetched; and what is said when they are not there."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from earwitness.cli.shell import shell
from earwitness.errors import CheckpointError, ConfigurationError, DownloadError
from earwitness_plugins.classifiers import published_weights as module
from earwitness_plugins.classifiers.published_weights import WEIGHTS, published_weights, weights_folder
from loopback import serving

CONTENT = b"not really weights" * 100


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of models of this test; nothing is in it, and it does not exist yet."""
    monkeypatch.setenv("EARWITNESS_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def publish(monkeypatch: pytest.MonkeyPatch, url: str | None, content: bytes = CONTENT) -> None:
    """Let mn04's weights be this content at this address."""
    changed = dataclasses.replace(
        WEIGHTS["efficientat-mn04"], url=url, sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content)
    )
    monkeypatch.setattr(module, "WEIGHTS", {**WEIGHTS, "efficientat-mn04": changed})


def test_weights_are_fetched_once_and_then_found(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.pt").write_bytes(CONTENT)
    seen = []
    with serving(tmp_path / "served") as address:
        publish(monkeypatch, f"{address}/w.pt")
        path = published_weights("efficientat-mn04", progress=lambda *p: seen.append(p))
    assert path == models / "mn04_as_mAP_432.pt"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert published_weights("efficientat-mn04") == path  # the server has gone: nothing is fetched


def test_a_server_with_another_or_a_longer_file_leaves_nothing_behind(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as address:
        publish(monkeypatch, f"{address}/w.pt")
        (tmp_path / "served" / "w.pt").write_bytes(CONTENT[::-1])
        with pytest.raises(DownloadError, match="SHA-256"):
            published_weights("efficientat-mn04")
        (tmp_path / "served" / "w.pt").write_bytes(CONTENT + b"and more")
        with pytest.raises(DownloadError, match="more than 1800 bytes"):
            published_weights("efficientat-mn04")
    assert list(models.iterdir()) == []


def test_without_a_network_one_learns_where_to_put_the_file(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, "http://127.0.0.1:9/w.pt")
    with pytest.raises(DownloadError, match=r"not at .*mn04_as_mAP_432\.pt.*Cannot download.*set EARWITNESS_MODELS"):
        published_weights("efficientat-mn04")


def test_a_file_with_another_checksum_is_refused_and_kept(models: Path) -> None:
    models.mkdir()
    for name, advice in (("efficientat-mn04", "Remove it and try again"), ("yamnet", "Replace it")):
        path = models / WEIGHTS[name].filename
        path.write_bytes(CONTENT)
        with pytest.raises(CheckpointError, match=f"is damaged or another file: its SHA-256 is .*{advice}"):
            published_weights(name)
        assert path.read_bytes() == CONTENT


def test_weights_that_nobody_serves_have_to_be_brought(models: Path) -> None:
    with pytest.raises(CheckpointError, match=r"yamnet are not at .*yamnet_521\.pt: a PyTorch state dict .*Put it"):
        published_weights("yamnet")


def test_the_command_line_says_it_in_one_sentence(models: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(shell, ["evaluate-classifier", "yamnet", "--dataset", "toy"])
    assert done.exit_code == 1
    assert done.stderr.startswith("error: The weights of yamnet are not at")
    assert "Traceback" not in done.stderr


def test_the_folder_is_the_named_one_or_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EARWITNESS_MODELS", raising=False)
    assert weights_folder() == tmp_path / "earwitness" / "models"
    monkeypatch.setenv("EARWITNESS_MODELS", str(tmp_path / "mine"))
    assert weights_folder() == tmp_path / "mine"


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'yamnet'"):
        published_weights("yamnett")
