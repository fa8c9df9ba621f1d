"""A deletion curve against ``quantus.PixelFlipping``: the same cells, in the same order, at the same steps.

    python benchmarks/perf/deletion_curve.py

Quantus asks the network as its user has it; earwitness asks the prepared one, in chunks that stay in the cache. Both
begin with the feature maps of 16 clips of 5 s and one map each, remove the same 1/16 of the cells in each of 16 steps,
and end with the target's probability after each. Ends with status 1 where the curves differ by more than 1e-4, or ours
is not twice as fast.
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
import torch
from side_by_side import ratios
from torch import Tensor

from earwitness import load_classifier
from earwitness_bench.metrics import patch_flipping_formulas as formulas
from earwitness_bench.metrics.patch_flipping import CHUNK_ROWS, Canvas
from earwitness_plugins.classifiers.zoo import esc10_cnn

GATE = 2.0
TOLERANCE = 1e-4
STEPS = 16


def main() -> int:
    """Print the ratio; 1 where the gate is missed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import quantus

    plain, fast = esc10_cnn(), load_classifier("esc10-cnn")
    features = plain.features(_clips(plain.rate))
    target = plain.logits_of_features(features).argmax(1)
    generator = torch.Generator().manual_seed(1)
    order = torch.stack([torch.randperm(features[0].numel(), generator=generator) for _ in features])
    maps = (order / order.shape[1]).reshape(features[:, 0].shape)
    pixel_flipping = quantus.PixelFlipping(
        features_in_step=order.shape[1] // STEPS,
        perturb_baseline=0.0,
        normalise=False,
        disable_warnings=True,
    )
    arrays = {"x_batch": features.numpy(), "y_batch": target.numpy(), "a_batch": maps[:, None].numpy()}

    def by_quantus() -> Tensor:
        curves = pixel_flipping(model=plain.network, **arrays, channel_first=True, softmax=True, device="cpu")
        return torch.from_numpy(np.array(curves))

    def by_earwitness() -> Tensor:
        canvas = Canvas(features[:, 0], torch.zeros_like(maps), lambda these: fast.logits_of_features(these[:, None]))
        grid = canvas.grid(1, 1)
        ranks = formulas.ranked(formulas.patch_means(maps, grid), torch.zeros(len(maps), grid.n_patches))
        places = formulas.cell_ranks(ranks, grid)
        removals = [(0, count) for count in formulas.equal_steps(grid.n_cells, STEPS)[1:]]

        def read(logits: Tensor, rows: Tensor) -> Tensor:
            return fast.probabilities_of(logits).gather(1, target[rows, None])[:, 0]

        return canvas.answers(places, removals, read, CHUNK_ROWS)

    difference = float((by_quantus() - by_earwitness()).abs().max())
    span = float((by_quantus().amax(1) - by_quantus().amin(1)).mean())
    median, best = ratios(by_quantus, by_earwitness, rounds=10)
    missed = median < GATE or difference > TOLERANCE
    print(
        f"deletion curve, quantus.PixelFlipping / earwitness: {median:.2f}x (median of rounds), {best:.2f}x (best "
        f"times), curves of mean span {span:.2f} differ by {difference:.1e}; gate {GATE}x, {TOLERANCE:g}: "
        f"{'MISSED' if missed else 'met'}; {torch.get_num_threads()} threads"
    )
    return int(missed)


def _clips(rate: int) -> Tensor:
    """16 clips of 5 s: bursts of noise, a few a second, each clip with its own."""
    generator = torch.Generator().manual_seed(0)
    envelope = torch.rand(16, 1, 25, generator=generator).pow(6)
    envelope = torch.nn.functional.interpolate(envelope, size=5 * rate, mode="linear")[:, 0]
    return 0.5 * envelope * torch.randn(16, 5 * rate, generator=generator)


if __name__ == "__main__":
    sys.exit(main())
