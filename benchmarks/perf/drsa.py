"""DRSA's fit against the paper's procedure, and K+1 heat maps against an implementation that repeats the batch.

    python benchmarks/perf/drsa.py

The fit: 9600 vectors of 64 dimensions, 4 subspaces, 3 restarts, seeded data with four overlapping groups of channels.
The paper's procedure is 5000 steps of 1 from each start. Ours is timed until its best objective is within 99.9 % of the
best that either finds. Both use the same objective and gradient; the authors' own form of a step (automatic
differentiation, eigenvalues, one start after the other) is timed beside them.

The heat maps: 8 clips, 4 subspaces, the default layer. The published way sends each clip through the network K+1 times
and filters a different subspace in each copy. Most of the work, K+1 maps' worth of passes below the layer, is the same
in both; what two steps save is what lies above it, and K of K+1 forward passes.
"""

from __future__ import annotations

import sys
import time

import torch
from side_by_side import gate, ratios, recordings
from torch import Tensor, nn
from torch.nn.functional import one_hot
from zennit.composites import EpsilonPlusFlat

from earwitness import load_classifier
from earwitness.classifier import AudioClassifier
from earwitness_plugins.drsa.attribution import attribute_in_parts, split_relevance
from earwitness_plugins.drsa.layers import choose_layer
from earwitness_plugins.drsa.objective import Vectors, block_sizes
from earwitness_plugins.drsa.subspaces import PAPER_STEPS, Subspaces, fit_subspaces, random_starts
from earwitness_plugins.lrp.propagation import Propagation

N_VECTORS, DIMENSIONS, K, RESTARTS = 9600, 64, 4, 3
N_CLIPS = 8


def main() -> int:
    """Print the table; 1 if a bound is not kept."""
    kept = [*fitting(), *heat_maps("toy-cnn", plain=True), *heat_maps("esc10-cnn")]
    return 0 if all(kept) else 1


def fitting() -> list[bool]:
    """Time to 99.9 % of the best objective."""
    vectors, sizes = synthetic_vectors(), block_sizes(DIMENSIONS, K)
    starts = random_starts(DIMENSIONS, RESTARTS, torch.Generator().manual_seed(1)).float()
    marks: dict[str, list[tuple[float, float]]] = {}

    def timed(method: str) -> float:
        began, seen = time.perf_counter(), marks.setdefault(method, [])
        seen.clear()
        found = fit_subspaces(
            vectors,
            sizes,
            starts,
            method=method,  # type: ignore[arg-type]
            report=lambda step, objective: seen.append((time.perf_counter() - began, objective)),
        )
        marks[method].append((time.perf_counter() - began, found.objective))
        return found.objective

    def until(method: str, objective: float) -> float:
        return next(seconds for seconds, reached in marks[method] if reached >= objective)

    ours = [timed("adaptive")]
    paper = timed("paper")
    best = max(ours[0], paper)
    first = until("adaptive", 0.999 * best)
    timed("adaptive")
    ours_s = (first + until("adaptive", 0.999 * best)) / 2  # one before and one after the long run
    paper_s = marks["paper"][-1][0]
    authors_s = PAPER_STEPS * RESTARTS * seconds_of_a_step_as_published(vectors, sizes, starts[0])
    print(f"objectives: ours {ours[0]:.5f}, the paper's procedure {paper:.5f}; {ours_s:.2f} s and {paper_s:.2f} s")
    return [
        gate("best objective, over that of the paper's procedure", ours[0] / paper, at_least=0.999),
        gate("DRSA fit to 99.9 % of the best objective: times faster than the paper's procedure", paper_s / ours_s,
             at_least=5),
        gate("  than the paper's procedure needs to get there itself", until("paper", 0.999 * best) / ours_s),
        gate("  than 5000 steps in the authors' form, from the time of a few", authors_s / ours_s, at_least=5),
    ]  # fmt: skip


def synthetic_vectors() -> Vectors:
    """Rectified mixtures of four groups of channels, each group active in some of the vectors and relevant in some."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(4 * K, DIMENSIONS, generator=generator).pow(3)
    strength = torch.rand(N_VECTORS, 4 * K, generator=generator).pow(4)
    noise = 0.05 * torch.randn(N_VECTORS, DIMENSIONS, generator=generator)
    activations = (strength @ patterns + noise - 0.3).clamp_min(0)
    effects = torch.randn(4 * K, DIMENSIONS, generator=generator) + 2 * patterns
    contexts = strength @ effects + 0.5 * torch.randn(N_VECTORS, DIMENSIONS, generator=generator)
    return Vectors.normalised(activations, torch.where(activations > 0, contexts, 0))


def seconds_of_a_step_as_published(vectors: Vectors, sizes: tuple[int, ...], start: Tensor, steps: int = 100) -> float:
    """One start, automatic differentiation, and the inverse root of the Gram matrix by eigenvalues in float64."""
    basis = start
    began = time.perf_counter()
    for _ in range(steps):
        basis = basis.detach().requires_grad_()
        relevance = (vectors.activations @ basis) * (vectors.contexts @ basis)
        blocks = relevance.reshape(len(relevance), len(sizes), -1).sum(2)
        roots = (blocks.clamp_min(0).square().sum(0) / vectors.n_rows).sqrt().sqrt()
        gradient = torch.autograd.grad(roots.mean().square(), basis)[0]
        moved = (basis + gradient).detach().double()
        values, axes = torch.linalg.eigh(moved.T @ moved)
        basis = (moved @ (axes * values.rsqrt()) @ axes.T).float()
    return (time.perf_counter() - began) / steps


def heat_maps(name: str, *, plain: bool = False) -> list[bool]:
    """The standard map and those of four subspaces."""
    classifier: AudioClassifier = load_classifier(name)
    batch = recordings(N_CLIPS, classifier.rate, classifier.duration_s or 5.0)
    with torch.no_grad():
        features = classifier.features(batch.waveforms)
        target = classifier.logits_of_features(features).argmax(1)
    propagation = Propagation(start="logit")
    layer = choose_layer(propagation, classifier, features, None)
    with propagation.hidden(classifier, features[:1], target[:1], layer) as hidden:
        channels = hidden.activation.shape[1]
    basis = random_starts(channels, 1, torch.Generator().manual_seed(0))[0]
    members = Subspaces(basis, block_sizes(channels, K)).members
    own = {"bases": basis.expand(N_CLIPS, -1, -1), "members": members.expand(N_CLIPS, -1, -1)}
    copies, rows = features.repeat(K + 1, 1, 1, 1), target.repeat(K + 1)
    filters = torch.cat([torch.ones_like(members[:1]), members])[:, None].repeat_interleave(N_CLIPS, dim=0)
    bases = basis.expand(len(copies), -1, -1)

    def in_two_steps() -> Tensor:
        found = attribute_in_parts(propagation, classifier, features, target, layer=layer, **own)
        return torch.stack([found.relevance, *found.parts])

    def repeated() -> Tensor:
        with propagation.hidden(classifier, copies, rows, layer) as hidden:
            filtered = split_relevance(hidden.activation, hidden.relevance, bases, filters)[0]
            return hidden.lower(filtered).reshape(K + 1, *features.shape)

    def repeated_with_zennit() -> Tensor:
        network = classifier.network
        composite = EpsilonPlusFlat(epsilon=1e-7, stabilizer=1e-7, zero_params="bias")
        leaf = copies.clone().requires_grad_()

        def insert_filter(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            activation = output.detach()
            output.register_hook(lambda relevance: split_relevance(activation, relevance, bases, filters)[0])

        with composite.context(network) as ruled:
            handle = network.get_submodule(layer).register_forward_hook(insert_filter)
            logits = ruled(leaf)
            start = logits.detach() * one_hot(rows, logits.shape[1])
            (found,) = torch.autograd.grad(logits, leaf, start)
            handle.remove()
        return found.reshape(K + 1, *features.shape)

    peers = {"the batch, same rules": (repeated, 1.0)}
    if plain:
        peers["the batch, plain Zennit"] = (repeated_with_zennit, 1.5)
    kept = []
    for peer, (function, bound) in peers.items():
        difference = (in_two_steps() - function()).abs().max() / in_two_steps().abs().max()
        median, _ = ratios(function, in_two_steps, rounds=10)
        what = f"{K} + 1 heat maps of {N_CLIPS} clips, {name} at {layer}: times faster than repeating {peer}"
        kept.append(gate(what, median, at_least=bound))
        kept.append(gate("  largest difference, over the largest value", float(difference), at_most=1e-5))
    return kept


if __name__ == "__main__":
    sys.exit(main())
