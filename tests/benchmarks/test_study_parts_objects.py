"""The study of parts and objects: matching, what is found, and the command on toy clips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from earwitness.cli.shell import shell
from earwitness_bench.studies.parts_objects import Fit, describe, matched_shares

OBJECTS = ("bass", "saw", "tone")


def fit_of(share: list[list[float]], whole: list[float], *, n_clips: int = 40, noise: float = 0.01) -> Fit:
    """Shares of K parts on three objects, the same on every clip but for a little noise."""
    generator = np.random.default_rng(0)
    on = np.array(share) + noise * generator.standard_normal((n_clips, len(share), 3))
    return Fit(on, np.array(whole) + noise * generator.standard_normal((n_clips, 3)))


def test_parts_are_matched_by_what_they_have_more_of_than_the_whole() -> None:
    """The bass is half of everything, and most of every part; but one part each is richer in saw and in tone."""
    one = fit_of([[0.5, 0.05, 0.2], [0.5, 0.15, 0.05], [0.7, 0.02, 0.05]], [0.55, 0.05, 0.1])
    assert one.match().tolist() == [2, 1, 0]
    found = describe(one, OBJECTS)
    assert [row["part"] for row in found["objects"]] == [3, 2, 1]
    assert found["found"] == 3
    assert found["objects"][1]["enrichment"] == pytest.approx(3, abs=0.3)
    assert matched_shares(one).mean() == pytest.approx((0.7 + 0.15 + 0.2) / 3, abs=0.01)


def test_copies_of_the_whole_map_find_nothing() -> None:
    one = fit_of([[0.5, 0.05, 0.2]] * 3, [0.5, 0.05, 0.2])
    assert describe(one, OBJECTS)["found"] <= 1  # by chance, at the 5 % level
    exact = Fit(np.tile([0.5, 0.05, 0.2], (40, 3, 1)), np.tile([0.5, 0.05, 0.2], (40, 1)))
    assert describe(exact, OBJECTS)["found"] == 0
    assert describe(exact, OBJECTS)["enrichment"] == pytest.approx(np.ones((3, 3)))


def test_what_holds_on_the_matching_clips_only_is_not_counted() -> None:
    share = np.tile([[0.5, 0.1, 0.1], [0.1, 0.5, 0.1], [0.1, 0.1, 0.5]], (40, 1, 1))
    share[1::2] = share[1::2, [1, 2, 0]]  # on the clips in between the parts have changed places
    one = Fit(share, np.full((40, 3), 0.2))
    assert describe(one, OBJECTS)["found"] == 0
    assert matched_shares(one).tolist() == pytest.approx([0.1] * 20)


def test_an_object_that_no_part_is_left_for_counts_as_nothing() -> None:
    one = fit_of([[0.6, 0.1, 0.1], [0.1, 0.6, 0.1]], [0.3, 0.3, 0.1])
    found = describe(one, OBJECTS)
    assert found["objects"][2] == {"object": "tone", "part": None, "found": False}
    assert matched_shares(one).mean() == pytest.approx(1.2 / 3, abs=0.01)


def test_the_command_compares_kinds_and_goes_on_where_it_was(tmp_path: Path) -> None:
    arguments = ["study", "parts-objects", "--classifier", "toy-cnn", "--dataset", "toy", "--out", str(tmp_path)]
    arguments += [f"--dataset-param={text}" for text in ("split=test", "objects=4", "clips=8")]
    arguments += [f"--fit-param={text}" for text in ("split=train", "clips=24")]
    arguments += ["--param=layer=features.7", "--param=k=2", "--kinds=drsa,random", "--fits=1", "--json"]
    first, again = (json.loads(CliRunner().invoke(shell, arguments).stdout) for _ in range(2))
    assert (first["computed"], first["found"], again["computed"], again["found"]) == (4, 0, 0, 4)
    assert first["kinds"] == again["kinds"]
    assert first["kinds"]["drsa"]["first_less_this"] is None
    assert set(first["objects"]) == {"class1", "class2"}
    assert (tmp_path / "parts-objects.png").stat().st_size > 10_000


def test_clips_that_lack_an_object_are_refused(tmp_path: Path) -> None:
    arguments = ["study", "parts-objects", "--classifier", "toy-cnn", "--dataset", "toy", "--out", str(tmp_path)]
    done = CliRunner().invoke(shell, [*arguments, "--dataset-param=clips=8", "--fit-param=clips=8"])
    assert done.exit_code == 1
    assert "objects=4" in done.stderr
