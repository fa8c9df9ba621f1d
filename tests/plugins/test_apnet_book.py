"""The prototype book: what is in it, what one hears, and that names cannot do anything."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from click.testing import CliRunner

from apnet_toy import CONFIGURATION, LABELS, NASTY, RATE, clips, prototypes
from browser import Tab, browser
from earwitness.batching import ClipList
from earwitness.cli.shell import shell
from earwitness.clips import Clip
from earwitness.errors import StoreError
from earwitness_plugins.apnet.book import write_book
from earwitness_plugins.apnet.explainer import APNet
from earwitness_plugins.apnet.history import History
from earwitness_plugins.apnet.network import similarity
from earwitness_plugins.apnet.prototypes import LEVEL, Neighbour


@pytest.fixture(scope="module")
def book(apnet: APNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("book") / "book"
    write_book(path, apnet.trained, CONFIGURATION, history=History.of(apnet.trained), clips=clips(12))
    return path


class Links(HTMLParser):
    """Everything that a page asks for."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, value) for name, value in attrs if name in ("src", "href") and value]


def test_every_prototype_has_its_picture_its_sound_its_class_and_its_neighbours(book: Path, apnet: APNet) -> None:
    document = json.loads((book / "book.json").read_text())
    learnt, page = apnet.trained, (book / "index.html").read_text()
    assert learnt.gallery is not None
    assert [p["number"] for p in document["prototypes"]] == [1, 2, 3, 4, 5, 6]
    for j, said in enumerate(document["prototypes"]):
        assert said["label"] == LABELS[int(learnt.gallery.classes[j])]
        assert (book / said["picture"]).read_bytes().startswith(b"\x89PNG")
        samples, rate = soundfile.read(book / said["sound"], dtype="float32")
        assert rate == RATE
        assert torch.allclose(torch.from_numpy(samples), said["gain"] * learnt.gallery.sounds[j], atol=1e-6)
        assert abs(samples).max() == pytest.approx(LEVEL)
        assert list(said["class_weights"].values()) == pytest.approx(learnt.network.class_weights[j].tolist())
        for name in (said["picture"], said["sound"]):
            assert f'src="{name}"' in page
    assert len({(book / p["picture"]).read_bytes() for p in document["prototypes"]}) == 6
    assert f"{learnt.n_parameters:,} parameters" in page


def test_neighbours_are_the_most_similar_training_clips_with_their_distances(book: Path, apnet: APNet) -> None:
    document = json.loads((book / "book.json").read_text())
    learnt, data = apnet.trained, clips(12)
    features = apnet.as_classifier().features(torch.stack([data[i].waveform for i in range(12)]))
    distances = learnt.network.distances(learnt.network.encoder(features)).detach()
    similarities = learnt.network.weighted(similarity(distances)).detach()
    for j, said in enumerate(document["prototypes"]):
        order = similarities[:, j].argsort(descending=True)[:5].tolist()
        assert [near["clip_id"] for near in said["nearest"]] == [data[i].clip_id for i in order]
        assert [n["distance"] for n in said["nearest"]] == pytest.approx(distances[order, j].sum(1).tolist(), rel=1e-4)
    for name, clip in document["clips"].items():
        samples, _ = soundfile.read(book / clip["sound"], dtype="float32")
        (own,) = [data[i] for i in range(12) if data[i].clip_id == name]
        assert torch.allclose(torch.from_numpy(samples), own.waveform)
        assert clip["labels"] == list(own.labels)


def test_the_folder_is_all_that_the_page_asks_for(book: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(book, tmp_path / "elsewhere"))
    links = Links((moved / "index.html").read_text()).found
    assert {tag for tag, _ in links} == {"a", "audio", "img", "link"}
    for _, target in links:
        assert target.startswith(("#", "data:")) or (moved / target).is_file()
    page = (moved / "index.html").read_text()
    assert "http" not in page
    assert all(f'id="{target[1:]}"' in page for _, target in links if target.startswith("#"))


def named(apnet: APNet, labels: tuple[str, ...], clip_id: str) -> Any:
    gallery = apnet.trained.gallery
    assert gallery is not None
    classes = torch.tensor([0, 0, 1, 1, 1, 1])  # none of the last
    nearest = ((Neighbour(clip_id, 1.0, 0.5),), *gallery.nearest[1:])
    silent = torch.cat([gallery.sounds[:5], torch.zeros_like(gallery.sounds[:1])])
    return replace(
        apnet.trained, labels=labels, gallery=replace(gallery, classes=classes, nearest=nearest, sounds=silent)
    )


def test_names_are_text_whatever_is_in_them(apnet: APNet, tmp_path: Path) -> None:
    trained = named(apnet, (NASTY, "b", NASTY + "2"), NASTY)
    held = ClipList([Clip(torch.rand(100) - 0.5, RATE, NASTY, labels=(NASTY,))])
    document = write_book(tmp_path, trained, CONFIGURATION, history=History.of(trained), clips=held)
    assert list(document["clips"]) == [NASTY]
    page = (tmp_path / "index.html").read_text()
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") >= 5
    with browser() as chromium:
        tab = Tab(chromium)
        tab.page.goto((tmp_path / "index.html").as_uri())
        assert tab.page.locator("h2").nth(1).inner_text() == NASTY
        assert tab.page.locator("img[src=x]").count() == 0
        assert tab.troubles == []
        assert all(url.startswith(("file:", "data:")) for url in tab.requests)


def test_a_distance_that_overflowed_is_null_and_the_book_is_json(apnet: APNet, tmp_path: Path) -> None:
    gallery = apnet.trained.gallery
    assert gallery is not None
    first, *others = gallery.nearest[0]
    nearest = ((first, replace(others[0], similarity=0.0, distance=float("inf"))), *gallery.nearest[1:])
    trained = replace(apnet.trained, gallery=replace(gallery, nearest=nearest))
    document = write_book(tmp_path, trained, CONFIGURATION, history=History.of(trained))

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    stored = json.loads((tmp_path / "book.json").read_text(), parse_constant=no_constant)
    for said in (document, stored):
        assert [near["distance"] for near in said["prototypes"][0]["nearest"]] == [first.distance, None]
    page = (tmp_path / "index.html").read_text()
    cells = [f"<td>{others[0].clip_id}</td>", '<td class="n">0.00</td>', '<td class="n">∞</td>']
    assert page.count("".join(cells)) == page.count("∞") == 1


def test_a_class_without_prototypes_and_a_silent_one_are_said(apnet: APNet, tmp_path: Path) -> None:
    trained = named(apnet, LABELS, "any")
    document = write_book(tmp_path, trained, CONFIGURATION, history=History.of(trained))
    page = (tmp_path / "index.html").read_text()
    assert document["without_prototypes"] == ["high"]
    assert "No prototype stands for high." in page
    assert page.count("It is silent.") == 1
    assert document["prototypes"][5]["sound"] is None
    assert not (tmp_path / "prototypes" / "006.wav").exists()


def test_a_book_replaces_an_older_one_and_nothing_else(apnet: APNet, apnet_folder: Path, tmp_path: Path) -> None:
    net = Path(shutil.copytree(apnet_folder, tmp_path / "net"))
    done = prototypes(net, "--out", tmp_path / "book", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["prototypes"]) == 6
    kept = json.loads(done.stdout)["prototypes"]
    labels = [p["label"] for p in kept]
    number = next(p["number"] for p in kept if labels.count(p["label"]) > 1)
    assert CliRunner().invoke(shell, ["refine", "delete", str(net), str(number)]).exit_code == 0
    done = prototypes(net, "--out", tmp_path / "book")
    assert f"5 prototypes of 3 classes: open {tmp_path / 'book' / 'index.html'}" in done.stdout
    assert len(list((tmp_path / "book" / "prototypes").glob("*.png"))) == 5
    assert f"Since the training: prototype {number} deleted." in (tmp_path / "book" / "index.html").read_text()
    refused = prototypes(net, "--out", net)
    assert refused.exit_code == 1
    assert "holds no prototype book" in refused.stderr
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot write a book"):
        write_book(tmp_path / "file" / "book", apnet.trained, CONFIGURATION, history=History("", ()))


def test_parameters_of_no_data_set_are_refused(apnet_folder: Path, tmp_path: Path) -> None:
    refused = prototypes(apnet_folder, "--out", tmp_path / "book", "--dataset-param", "clips=3")
    assert refused.exit_code == 1
    assert "name it with --dataset" in refused.stderr
