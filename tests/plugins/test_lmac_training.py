"""A step of L-MAC's training against the plain loop: two more passes of the classifier, over whole spectrograms."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.lifting import lift_mask, lower_relevance
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.random import Random
from earwitness_plugins.lmac import training
from earwitness_plugins.lmac.budget import warped
from earwitness_plugins.lmac.curves import COLUMNS
from earwitness_plugins.lmac.decoder import MaskDecoder
from earwitness_plugins.lmac.guidance import Guidance
from earwitness_plugins.lmac.masks import MaskKind
from earwitness_plugins.lmac.material import Material
from earwitness_plugins.lmac.objective import Objective
from earwitness_plugins.lmac.passages import coarse_grid
from earwitness_plugins.lmac.training import Recipe, Training
from networks import N_SAMPLES, OneEach, classifier_of, clips_of, noise

ROWS = (0, 1, 2, 3)
PLAIN = MaskKind(domain="stft", scale="magnitude")
PUBLISHED = Objective(
    in_weight=4.0, increase_weight=0.0, out_weight=0.2, exchange_weight=0.0, sparsity=6.4, out_loss="published"
)
GUIDANCE = Guidance(weight=4.0, loss="bce", least_cosine=0.8)


def material_of(classifier: AudioClassifier, kind: MaskKind) -> Material:
    passages = functools.cache(functools.partial(kind.passage, classifier))
    levels = torch.tensor([0.01, 0.1, 0.5, 1.0])[:, None]
    clips, layers = ClipList(clips_of(levels * noise(len(ROWS)))), ("features.2", "features.6")
    made = Material(classifier, layers, passages, clips, seed=0, noise="pink", noise_snr_db=0.0)
    for row in ROWS:
        made.prepare(row, 100.0)
    return made


def undecided(kind: MaskKind) -> AudioClassifier:
    """To which these clips are of different classes."""
    network = OneEach()
    with torch.no_grad():
        biased = classifier_of(network)
        network.head.bias -= biased.logits(material_of(biased, kind).heard(ROWS)[0].waveforms).mean(0)
    return classifier_of(network)


def decoder_of(maps: tuple[Tensor, ...]) -> MaskDecoder:
    decoder = MaskDecoder([each.shape[1] for each in maps], 16, classes=3)
    decoder.initialise(maps, seed=1)
    with torch.no_grad():
        decoder.mask.weight.mul_(20)  # masks that are not near one half everywhere
    return decoder


def plain_mask(logits: Tensor, kind: MaskKind, batch: Batch, classifier: AudioClassifier, share: float) -> Tensor:
    """Where it acts; rows by chance at a budget."""
    coarse, fine = coarse_grid(classifier, N_SAMPLES), classifier.listening.grid(N_SAMPLES)
    mask = torch.sigmoid(logits)
    if share:
        energy = lower_relevance(classifier.listening.forward(batch.waveforms).abs().square(), fine, coarse)
        drawn = Random(0, batch.clip_ids).uniform("budget 0", 2)
        at_budget = warped(functional.logsigmoid(logits), energy, 0.1 + 0.8 * drawn[:, 0]).exp()
        mask = torch.where((drawn[:, 1] < share)[:, None, None], at_budget, mask)
    mask = mask if kind.domain == "features" else lift_mask(mask, coarse, fine)
    return ((mask > 0.5).to(mask) - mask).detach() + mask if kind.binarize else mask


def plain_answer(mask: Tensor, kind: MaskKind, batch: Batch, classifier: AudioClassifier) -> Tensor:
    """Logits of what a mask lets through, on the papers' route."""
    if kind.domain == "features":
        magnitude = classifier.front_end.decompress(classifier.features(batch.waveforms))[:, 0]  # type: ignore[attr-defined]
    else:
        magnitude = classifier.listening.forward(batch.waveforms).abs()
    passed = mask * magnitude if kind.scale == "magnitude" else torch.expm1(mask * torch.log1p(magnitude))
    if kind.domain == "features":
        features = classifier.front_end.compression.apply(passed)[:, None]  # type: ignore[attr-defined]
    else:
        features = classifier.front_end.from_stft(torch.complex(passed, torch.zeros_like(passed)))
    return classifier.logits_of_features(features)


def plain_guidance(mask: Tensor, heard: Batch, clean: Batch, classifier: AudioClassifier) -> tuple[Tensor, Tensor]:
    """λ_g times the binary cross-entropy to what is loud in the clean clip, and which rows are near it."""
    recording, target = (classifier.listening.forward(each.waveforms).abs() for each in (heard, clean))
    levels = torch.log1p(target)
    loud = (levels >= 0.35 * levels.amax((1, 2), keepdim=True)).float()
    loss = functional.binary_cross_entropy(mask.clamp(0, 1), loud, reduction="none").mean((1, 2))
    similar = functional.cosine_similarity(torch.log1p(mask * recording).flatten(1), levels.flatten(1))
    return GUIDANCE.weight * loss, similar >= GUIDANCE.least_cosine


@pytest.mark.parametrize(
    ("kind", "objective", "recipe"),
    [
        (PLAIN, Objective(), Recipe(steps=5)),
        (PLAIN, PUBLISHED, Recipe(steps=5)),
        (replace(PLAIN, budgets=True), Objective(), Recipe(steps=5, budget_share=0.5)),
        (PLAIN, Objective(), Recipe(steps=0, finetune_steps=5)),
        (replace(PLAIN, binarize=True), Objective(), Recipe(steps=0, finetune_steps=5)),
        (replace(PLAIN, scale="log1p"), PUBLISHED, Recipe(steps=5)),
        (replace(PLAIN, binarize=True), Objective(), Recipe(steps=5)),
        (replace(PLAIN, domain="features"), Objective(), Recipe(steps=5)),
        (replace(PLAIN, domain="features", scale="log1p"), Objective(), Recipe(steps=5)),
    ],
)
def test_a_step_has_the_gradient_of_the_plain_loop(
    kind: MaskKind, objective: Objective, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = undecided(kind)
    material = material_of(own, kind)
    heard, target = material.heard(ROWS)
    clean = replace(heard, waveforms=target)
    rows = material.rows(ROWS, heard)
    decoder = decoder_of(rows.maps)
    step = Training(own, decoder, kind=kind, objective=objective, guidance=GUIDANCE, recipe=recipe)
    monkeypatch.setattr(training, "_CLIP", 1e9)
    monkeypatch.setattr(step.optimiser, "step", lambda: None)
    step._step(material, ROWS, 0, 0)
    found = [parameter.grad for parameter in decoder.parameters()]
    assert all(gradient is not None for gradient in found)

    logits_of_all = own.logits(heard.waveforms)
    decision = logits_of_all.argmax(1)
    logits = decoder(rows.maps, coarse_grid(own, N_SAMPLES).shape, decision)
    mask = plain_mask(logits, kind, heard, own, recipe.budget_share)
    inside, outside, exchanged = (
        plain_answer(each, kind, heard, own) for each in (mask, 1 - mask, torch.cat([mask[-1:], mask[:-1]]))
    )
    loss = objective.in_weight * functional.cross_entropy(inside, decision, reduction="none")
    confidence, reached = (
        functional.softmax(each.double(), 1).gather(1, decision[:, None])[:, 0].logit()
        for each in (logits_of_all, inside)
    )
    loss = loss + objective.increase_weight * (confidence + 0.5 - reached).clamp_min(0)
    if objective.out_loss == "published":
        loss = loss - objective.out_weight * functional.cross_entropy(outside, decision, reduction="none")
    else:
        gone = 1 - torch.softmax(outside, 1).gather(1, decision[:, None])[:, 0]
        loss = loss - objective.out_weight * gone.log()
    foreign = torch.cat([decision[-1:], decision[:-1]])
    assert 0 < int((foreign != decision).sum()) < len(ROWS), "rows of both kinds"
    made = torch.softmax(exchanged, 1).gather(1, foreign[:, None])[:, 0]
    loss = loss - objective.exchange_weight * torch.where(foreign == decision, 0.0, (1 - made).log())
    rest = objective.sparsity * mask.mean((1, 2))
    if recipe.budget_share:
        at_budget = Random(0, heard.clip_ids).uniform("budget 0", 2)[:, 1] < recipe.budget_share
        assert 0 < int(at_budget.sum()) < len(ROWS), "rows of both kinds"
        rest = torch.where(at_budget, 0.0, rest)
    if recipe.finetune_steps:
        soft = plain_mask(logits, replace(kind, binarize=False), heard, own, 0.0)
        guidance, guided = plain_guidance(soft, heard, clean, own)
        assert 0 < int(guided.sum()) < len(ROWS), "rows of both kinds"
        rest = torch.where(guided, guidance, rest)
    wanted = torch.autograd.grad((loss + rest).mean(), list(decoder.parameters()))
    difference, size = (
        torch.cat([each.flatten() for each in gradients]).norm()
        for gradients in ([a - b for a, b in zip(found, wanted, strict=True)], wanted)
    )
    assert float(difference) < 1e-4 * float(size)


def test_sparsity_rises_while_masks_keep_too_much_and_falls_while_they_keep_too_little() -> None:
    own = classifier_of(OneEach())
    decoder = decoder_of(material_of(own, PLAIN).rows(ROWS).maps)
    made = {"kind": PLAIN, "objective": Objective(sparsity=2.0), "guidance": GUIDANCE}
    free = Training(own, decoder, **made, recipe=Recipe(steps=500, mean_mask=0.25))  # type: ignore[arg-type]
    fixed = Training(own, decoder, **made, recipe=Recipe(steps=500))  # type: ignore[arg-type]
    for step, mean_mask in enumerate((1.0, 0.5, 0.125), start=1):
        row = [0.0] * len(COLUMNS)
        row[COLUMNS.index("step")], row[COLUMNS.index("mean_mask")] = 50.0 * step, mean_mask
        free.state.curves.training.append(row)
    assert free.sparsity == pytest.approx(2 * math.sqrt(4 * 2 * 0.5))
    assert fixed.sparsity == 2
    free.state.curves.training.append([550.0] + [0.9] * (len(COLUMNS) - 1))
    assert free.sparsity == pytest.approx(4), "it is no longer adapted while masks follow guidance"
