"""Examples beside an explained recording: the most similar ones, once each, and what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile
import torch

from earwitness.examples import EXAMPLES_WRITTEN, ExampleFiles
from earwitness.explanation import Example, ExampleBands, Explanation, Relevance


def example(name: str, similarity: float, bands: bool = False) -> Example:
    curves = ExampleBands(torch.tensor([100.0, 1000.0]), torch.tensor([0.2, 0.9]), torch.tensor([0.1, -0.4]))
    return Example(name, similarity, -0.3, torch.full((400,), similarity / 10), 8000, curves if bands else None)


def explanation(*rows: tuple[Example, ...]) -> Explanation:
    target = torch.zeros(max(1, len(rows)), dtype=torch.int64)
    return Explanation(target, relevance=Relevance(torch.zeros(len(target), 2, 3), "features"), examples=rows)


def test_each_example_is_written_once_as_it_is_most_similar_and_the_nearest_first(tmp_path: Path) -> None:
    files = ExampleFiles(tmp_path)
    files.add(explanation((example("a", 1.0), example("b", 0.5)), (example("b", 2.0), example("a", 0.3))), [0.0, 5.0])
    files.add(explanation((example("c", 1.5, bands=True),)), [10.0])
    written = files.finish("title")
    assert [(found.example.name, found.example.similarity, found.start_s) for found in written] == [
        ("b", 2.0, 5.0), ("c", 1.5, 10.0), ("a", 1.0, 0.0),
    ]  # fmt: skip
    for found in written:
        samples, rate = soundfile.read(found.sound, dtype="float32")
        assert rate == 8000
        assert samples.tolist() == pytest.approx(found.example.waveform.tolist())
    assert (tmp_path / "examples.png").stat().st_size > 0
    document = written[1].document(tmp_path)
    assert document["sound"] == "examples/example-2.wav"
    assert document["bands"] == {
        "frequencies_hz": [100.0, 1000.0],
        "similarity": pytest.approx([0.2, 0.9]),
        "contribution": pytest.approx([0.1, -0.4]),
    }
    assert written[0].document(tmp_path)["bands"] is None
    assert files.notes == []


def test_no_more_than_a_few_are_written(tmp_path: Path) -> None:
    many = tuple(example(str(number), number, bands=True) for number in range(9))
    for rows, count in (((many,), EXAMPLES_WRITTEN), ((), 0)):
        folder = tmp_path / str(count)
        folder.mkdir()
        files = ExampleFiles(folder)
        files.add(explanation(*rows), [0.0])
        assert len(files.finish("title")) == count
        assert len(list(folder.glob("examples/*.wav"))) == count
        assert (folder / "examples.png").exists() == bool(count)


def test_windows_that_are_like_no_example_are_counted(tmp_path: Path) -> None:
    files = ExampleFiles(tmp_path)
    files.add(explanation((example("a", 1.0),), ()), [0.0, 5.0])
    assert "no stored sound is close to 1 of 2 windows" in files.notes[0]
    alone = ExampleFiles(tmp_path)
    alone.add(explanation(()), [0.0])
    assert "close to the recording:" in alone.notes[0]
    assert alone.finish("title") == ()
