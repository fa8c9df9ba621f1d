"""SB-CNN and Att-CRNN: built as published, for clips of any length, and trained by the house's command."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from earwitness import load_classifier
from earwitness.errors import ConfigurationError
from earwitness.registry import registry
from earwitness_plugins.classifiers.architectures import ARCHITECTURES
from earwitness_plugins.classifiers.attention_crnn import AttentionCRNN
from earwitness_plugins.classifiers.sb_cnn import SBCNN, sb_cnn_front_end

NAMES = ("sb-cnn", "att-crnn")


def features(n_frames: int, *, rows: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, 1, 128, n_frames, generator=torch.Generator().manual_seed(seed))


def n_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_networks_have_the_size_their_papers_give_them():
    """SB-CNN's by hand, from its layers; Att-CRNN is published with 202,000 for 80 bands and 35 words."""
    convolutions = (25 + 1) * 24 + (24 * 25 + 1) * 48 + (48 * 25 + 1) * 48
    assert n_parameters(SBCNN()) == convolutions + (2400 + 1) * 64 + (64 + 1) * 10 == 241_434
    assert n_parameters(AttentionCRNN()) == 225_967
    assert n_parameters(AttentionCRNN(n_bands=80, n_classes=35)) == pytest.approx(202_000, rel=0.01)


def test_sb_cnn_averages_the_probabilities_of_its_patches():
    torch.manual_seed(0)
    network = SBCNN().eval()
    clip = features(128 + 3 * 16 + 5)
    with torch.no_grad():
        each = [functional.softmax(network(clip[..., start : start + 128]), dim=1) for start in (0, 16, 32, 48)]
        whole = functional.softmax(network(clip), dim=1)
    torch.testing.assert_close(whole, torch.stack(each).mean(0))


def test_sb_cnn_trains_on_one_random_patch_of_each_clip():
    """A clip that is a step in time shows where it was cut."""
    network = SBCNN(dropout=0.0).train()
    clip = features(300, rows=1)
    torch.manual_seed(0)
    first, second = network(clip), network(clip)
    torch.manual_seed(0)
    assert torch.equal(first, network(clip))
    assert not torch.allclose(first, second)
    short = features(40, rows=1)
    assert torch.equal(network(short), network(short))  # there is one place only


@pytest.mark.parametrize("network", [SBCNN(), AttentionCRNN()], ids=NAMES)
@pytest.mark.parametrize("n_frames", [1, 128, 217])
def test_rows_do_not_depend_on_each_other(network, n_frames):
    network.eval()
    batch = features(n_frames, rows=3)
    with torch.no_grad():
        together = network(batch)
        apart = torch.cat([network(row[None]) for row in batch])
    assert together.shape == (3, 10)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_att_crnn_attends_to_all_frames_by_weights_that_sum_to_one():
    """With a query of zeros the weights are equal, and the middle frame has no part in them."""
    network = AttentionCRNN().eval()
    with torch.no_grad():
        network.query.weight.zero_()
        network.query.bias.zero_()
        frames, _ = network.recurrence(network.convolutions(features(50))[:, 0].transpose(1, 2))
        torch.testing.assert_close(network(features(50)), network.classifier(frames.mean(1)))


def test_silence_is_zero_and_no_band_is_empty():
    front_end = sb_cnn_front_end()
    assert float(front_end(torch.zeros(1, 44100)).abs().max()) < 1e-6
    noise = torch.randn(1, 44100, generator=torch.Generator().manual_seed(0))
    assert bool((front_end(noise)[0, 0].amax(1) > 0.1).all())


@pytest.mark.parametrize("name", NAMES)
def test_without_weights_it_says_how_to_make_some(name, tmp_path):
    with pytest.raises(ConfigurationError, match=f"earwitness train-classifier {name}"):
        load_classifier(name, plugins=registry())
    from earwitness.artifacts import save_tensors

    path = tmp_path / "weights.safetensors"
    save_tensors(path, ARCHITECTURES[name].network().state_dict())
    classifier = load_classifier(name, parameters={"weights": str(path)}, plugins=registry())
    assert classifier.logits(torch.randn(1, 44100)).shape == (1, 10)
