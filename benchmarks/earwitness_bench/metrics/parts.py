"""Which part of an explanation is which sound, where the clean sounds are known?

What counts
-----------
A part's positive relevance, lifted to the listening STFT with its mass preserved; of a part that is a mask, the
magnitude that it lets through. Parts that a row does not select do not count, and a row that selects none is not
defined. What is heard of a part is what ``earwitness explain`` plays of it under the run's rule: its share of what is
heard of the whole (:func:`earwitness.parts.part_gains`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.clips import Clip
from earwitness.context import Context
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation, Parts
from earwitness.parts import part_alone, part_gains
from earwitness_bench.metrics import localisation_formulas
from earwitness_bench.metrics import parts_formulas as formulas


@dataclass(frozen=True, eq=False)
class Shares:
    """How the relevance of an explanation's parts is spread over some sounds.

    Attributes
    ----------
    mass : Tensor (B, K), float64
        Positive relevance; 0 for parts that do not count.
    on : Tensor (B, K, O), float64, in [0, 1]
        Share of each part on each sound.
    whole : Tensor (B, O), float64, in [0, 1]
        The same of the whole map.
    """

    mass: Tensor
    on: Tensor
    whole: Tensor

    @classmethod
    def of(cls, explanation: Explanation, context: Context, ideal: Tensor) -> Shares:
        """Spread the parts over ideal masks (B, O, F, N)."""
        parts, scene = _parts_of(explanation), context.scene
        mass, on = [], []
        for number in range(len(parts.names)):  # one dense map at a time: a method may have a hundred parts
            relevance = scene.relevance_map(part_alone(explanation, number))
            mass.append(relevance.double().clamp_min(0).sum((1, 2)))
            on.append(formulas.shares_of(relevance, ideal))
        counted = torch.stack(mass, 1) * parts.selected.to(ideal.device)
        return cls(counted, torch.stack(on, 1), formulas.shares_of(scene.relevance_map(explanation), ideal))


class PartsObjects:
    """Which part is which of the sounds that carry a label, matched one to one.

    ``matched_share``: mean over the objects of the share of their part's relevance that lies in their ideal mask. 1:
    each object has a part that points at nothing else. K copies of one map cannot exceed 1 / O.
    ``found``: share of the objects that are the main object of their part, which has less on each of the others. K
    copies of one map find 1 / O, and so does a single part; three of four objects are .75.
    ``share_gain``: ``matched_share`` less what the whole map has on the same objects, on average: what was gained by
    taking it apart. 0 for K copies of the whole.
    ``part_SI-SDR_improvement``: in dB, mean over the objects, of the sound of their part over the recording.

    An object without a part (K < O, or parts that lie on nothing) has a share and a gain of 0, and 0 dB: one has the
    recording. More parts than objects is no fault, but gives more to choose from: compare at equal K, and with parts
    of noise. An object that the classifier does not use has no relevance to find, by any method.
    """

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        """See :class:`earwitness.protocols.Metric`. A clip without a labelled sound is not defined."""
        objects = labelled_sounds(context)
        present = objects.amax(2) > objects.amin(2)
        shares = Shares.of(explanation, context, object_masks(context, objects))
        matched = formulas.match(shares.on, shares.mass > 0, present)
        share = formulas.of_matched(shares.on, matched, 0.0)
        gain = torch.where(matched == formulas.NO_PART, 0.0, share - shares.whole)
        columns = {
            "matched_share": share,
            "found": formulas.of_matched(formulas.is_main(shares.on), matched, 0.0),
            "share_gain": gain,
            "part_SI-SDR_improvement": _improvements(explanation, context, objects, matched),
        }
        undefined = ~_parts_of(explanation).selected.any(1).to(present.device)
        return {
            name: formulas.mean_over_objects(values, present).masked_fill(undefined, torch.nan)
            for name, values in columns.items()
        }


class PartsTarget:
    """In a mixture with other classes: does one part hold the target's sound, and nothing else?

    Of the part with the largest ``target_F1``: ``target_purity``, the share of its relevance that lies in the target's
    ideal mask, and ``target_concentration``, the share of all relevance there that it holds. The whole map as one part
    has a concentration of 1: parts are worth something where they beat its F1, ``target_F1_whole``.
    """

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        """See :class:`earwitness.protocols.Metric`. A clip needs a sound of the target and one of another class."""
        source = context.batch.target_sources(context.target_labels)
        if source is None:
            raise ExplanationError("parts-target needs clips whose clean sources are known")
        transform = context.scene.listening.forward
        rest = transform(context.batch.waveforms - source).abs()
        ideal = localisation_formulas.ideal_ratio_mask(transform(source).abs(), rest)[:, None]
        shares = Shares.of(explanation, context, ideal)
        f1, purity, concentration = formulas.held_by_one(shares.mass, shares.on[:, :, 0])
        whole, _, _ = formulas.held_by_one(torch.ones_like(shares.whole), shares.whole)
        mixed = [_has_both(clip, label) for clip, label in zip(context.batch.clips, context.target_labels, strict=True)]
        defined = torch.tensor(mixed, device=source.device) & _parts_of(explanation).selected.any(1).to(source.device)
        columns = {
            "target_F1": f1,
            "target_purity": purity,
            "target_concentration": concentration,
            "target_F1_whole": whole,
        }
        return {name: torch.where(defined, values, torch.nan) for name, values in columns.items()}


def _improvements(explanation: Explanation, context: Context, objects: Tensor, matched: Tensor) -> Tensor:
    """SI-SDR of each object's part over the recording's, in dB, (B, O), float64; 0 for objects without a part."""
    found = torch.zeros(matched.shape, dtype=torch.float64, device=matched.device)
    numbers = sorted(set(matched[matched != formulas.NO_PART].tolist()))
    gains = part_gains(context.scene, explanation, context.rendering.gain, numbers, context.rule)
    for number, gain in zip(numbers, gains, strict=True):
        rows, places = (matched == number).nonzero(as_tuple=True)
        sound = context.scene.sound(gain)[rows]
        better = localisation_formulas.si_sdr_improvement(
            sound, context.batch.waveforms[rows], objects[rows, places].to(sound)
        )
        found[rows, places] = better.double()
    return found


def object_masks(context: Context, objects: Tensor) -> Tensor:
    """The ideal masks (B, O, F, N) of sounds (B, O, T) in the context's recordings, on the listening STFT."""
    transform = context.scene.listening.forward
    spectra = transform(objects.flatten(0, 1)).abs()
    rest = transform(context.batch.waveforms - objects.sum(1)).abs()
    return formulas.ideal_masks(spectra.reshape(*objects.shape[:2], *spectra.shape[1:]), rest)


def labelled_sounds(context: Context) -> Tensor:
    """The sources of each clip that are evidence for some class: (B, O, T), rows with fewer filled up with silence."""
    batch = context.batch
    if not all(clip.sources for clip in batch.clips):
        raise ExplanationError("parts-objects needs clips whose clean sources are known")
    sounds = [[source.waveform for source in clip.sources.values() if source.label] for clip in batch.clips]
    most = max(1, *(len(own) for own in sounds))
    silence = torch.zeros_like(batch.clips[0].waveform)
    return torch.stack([torch.stack([*own, *[silence] * (most - len(own))]) for own in sounds]).to(batch.waveforms)


def _has_both(clip: Clip, label: str) -> bool:
    sounding = {source.label for source in clip.sources.values() if source.label and bool(source.waveform.any())}
    return label in sounding and len(sounding) > 1


def _parts_of(explanation: Explanation) -> Parts:
    if explanation.parts is None or not explanation.parts.names:
        raise ExplanationError("this metric needs an explanation with parts")
    return explanation.parts
