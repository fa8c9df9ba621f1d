"""From an explanation to what is heard and what is left, on a small real classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earwitness.audio.dialects import drsa_toy, yamnet
from earwitness.audio.front_end import FrontEnd, Identity
from earwitness.audio.lifting import lift_mask, lower_mask, lower_relevance
from earwitness.audio.masking import mask_to_gain
from earwitness.audio.rules import Energy, Normalise, PercentileBlur, Quantile, RelevanceShare, Rule
from earwitness.audio.stft import ListeningSTFT
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Clip
from earwitness.errors import ExplanationError
from earwitness.explanation import DOMAINS, SCALES, Domain, Explanation, Mask, Parts, Relevance, Scale
from earwitness.render import Scene, render

RATE = 16000
N_SAMPLES = 5000  # 20 hops of 240 and 200 samples: one frame past the end
RULES: list[Rule] = [Normalise(), Quantile(0.7), RelevanceShare(0.6), PercentileBlur(80), Energy(0.3)]


class SmallNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 3)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.head(self.convolution(features).relu().mean((2, 3)))
        return logits


def classifier_on(front_end: FrontEnd) -> AudioClassifier:
    return AudioClassifier(SmallNet(), front_end=front_end, labels=("a", "b", "c"), name="small")


def batch_of(n_rows: int = 3, n_samples: int = N_SAMPLES, rate: int = RATE) -> Batch:
    waveforms = 0.2 * torch.randn(n_rows, n_samples, generator=torch.Generator().manual_seed(1))
    return Batch.of([Clip(row, rate, f"clip-{i}") for i, row in enumerate(waveforms)])


def scene_of(
    route: Any = "waveform", front_end: FrontEnd | None = None, listening: ListeningSTFT | None = None
) -> Scene:
    classifier = classifier_on(front_end or drsa_toy())
    return Scene(classifier, batch_of(), listening or classifier.listening, route)


def map_shape(scene: Scene, domain: Domain) -> tuple[int, ...]:
    if domain == "waveform":
        return tuple(scene.batch.waveforms.shape)
    if domain == "stft":
        return tuple(scene.magnitude.shape)
    grid = scene.classifier.feature_grid(scene.n_samples)
    assert grid is not None
    return (len(scene.batch), *grid.shape)


def relevance_in(scene: Scene, domain: Domain, seed: int = 2) -> Explanation:
    values = torch.randn(map_shape(scene, domain), generator=torch.Generator().manual_seed(seed))
    return Explanation(torch.tensor([0, 1, 2]), relevance=Relevance(values, domain))


def mask_in(scene: Scene, domain: Domain, scale: Scale = "magnitude") -> Explanation:
    values = torch.rand(map_shape(scene, domain), generator=torch.Generator().manual_seed(3))
    return Explanation(torch.tensor([0, 1, 2]), mask=Mask(values, domain, scale))


def everything(scene: Scene, value: float = 1.0) -> Explanation:
    return Explanation(torch.tensor([0, 1, 2]), mask=Mask(torch.full(tuple(scene.magnitude.shape), value), "stft"))


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) < tolerance


# -- heard and rest ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("front_end", [drsa_toy, yamnet])
def test_heard_plus_rest_is_the_recording(front_end: Any, rule: Rule, domain: Domain) -> None:
    scene = scene_of(front_end=front_end())
    for explanation in (relevance_in(scene, domain), mask_in(scene, domain)):
        rendering = render(scene, explanation, rule)
        assert close(rendering.heard + rendering.rest, scene.batch.waveforms)
        # and each is what its own gain lets through
        assert close(rendering.heard, scene.sound(rendering.gain))
        assert close(rendering.rest, scene.sound(rendering.rest_gain))
        assert close(rendering.gain + rendering.rest_gain, torch.ones_like(rendering.gain))
        assert 0 <= float(rendering.gain.min()) < float(rendering.gain.max()) <= 1


def test_kept_energy_and_mean_mask_are_those_of_the_gain() -> None:
    scene = scene_of()
    rendering = render(scene, mask_in(scene, "stft"), Normalise())
    energy = scene.magnitude.double() ** 2
    wanted = (rendering.gain.double() ** 2 * energy).sum((1, 2)) / energy.sum((1, 2))
    assert close(rendering.kept_energy, wanted.float())
    assert close(rendering.mean_mask, rendering.gain.mean((1, 2)))
    assert rendering.kept_energy.shape == rendering.mean_mask.shape == (3,)


def test_a_mask_of_ones_is_the_recording_and_one_of_zeros_is_silence() -> None:
    scene = scene_of()
    whole, nothing = (render(scene, everything(scene, value), Normalise()) for value in (1.0, 0.0))
    assert close(whole.heard, scene.batch.waveforms)
    assert not nothing.heard.any()
    assert torch.equal(nothing.rest, scene.batch.waveforms)
    assert whole.kept_energy.tolist() == [1, 1, 1]


def test_a_feature_mask_of_ones_is_all_that_the_features_hear() -> None:
    scene = scene_of(front_end=yamnet())
    ones = torch.ones(map_shape(scene, "features"))
    rendering = render(scene, Explanation(torch.tensor([0, 1, 2]), mask=Mask(ones, "features")), Normalise())
    grid = scene.listening.grid(N_SAMPLES)
    inside = (grid.frequencies_hz > 160) & (grid.frequencies_hz < 7450)
    assert close(rendering.gain[:, inside], torch.ones_like(rendering.gain[:, inside]))
    assert not rendering.gain[:, (grid.frequencies_hz < 60) | (grid.frequencies_hz > 7600)].any()


def test_some_rows_of_a_rendering_are_those_rows() -> None:
    scene = scene_of()
    rendering = render(scene, mask_in(scene, "stft"), Normalise())
    some = rendering.select([2, 0])
    for name in ("gain", "rest_gain", "heard", "rest", "kept_energy", "mean_mask"):
        assert torch.equal(getattr(some, name), getattr(rendering, name)[[2, 0]])


# -- from an explanation to a gain ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [Normalise(), Quantile(0.7), RelevanceShare(0.6), PercentileBlur(80)], ids=str)
def test_a_rule_is_applied_in_the_maps_own_domain_and_then_lifted(rule: Any) -> None:
    scene = scene_of()
    explanation = relevance_in(scene, "features")
    assert explanation.relevance is not None
    coarse = scene.classifier.feature_grid(N_SAMPLES)
    assert coarse is not None
    wanted = lift_mask(rule(explanation.relevance.values), coarse, scene.listening.grid(N_SAMPLES)).clamp(0, 1)
    assert torch.equal(render(scene, explanation, rule).gain, wanted)
    on_stft = relevance_in(scene, "stft")
    assert on_stft.relevance is not None
    assert torch.equal(render(scene, on_stft, rule).gain, rule(on_stft.relevance.values))


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("form", ["soft", "hard"])
def test_an_energy_rule_brings_any_answer_to_its_budget(domain: Domain, form: Any) -> None:
    scene = scene_of()
    heard = Explanation(torch.tensor([0, 1, 2]), heard=0.3 * scene.batch.waveforms.roll(100, 1))
    for explanation in (relevance_in(scene, domain), mask_in(scene, domain), heard):
        rendering = render(scene, explanation, Energy(0.25, form))
        assert close(rendering.kept_energy, torch.full((3,), 0.25), 1e-4)
        assert close(rendering.heard, scene.sound(rendering.gain))


def test_a_budget_is_met_at_log1p_too_and_the_rest_is_the_complement_there() -> None:
    scene = scene_of()
    linear, log1p = (render(scene, relevance_in(scene, "stft"), Energy(0.25), scale) for scale in SCALES)
    assert torch.equal(log1p.gain, linear.gain)
    exponent = 1 - torch.log1p(linear.gain * scene.magnitude) / torch.log1p(scene.magnitude)
    assert close(log1p.rest_gain, mask_to_gain(exponent, scene.magnitude, "log1p"))


@pytest.mark.parametrize("rule", [Normalise(), Quantile(0.9), PercentileBlur()], ids=str)
def test_a_methods_own_mask_is_kept_as_it_is(rule: Rule) -> None:
    scene = scene_of()
    explanation = mask_in(scene, "stft")
    assert explanation.mask is not None
    both = Explanation(explanation.target, relevance=relevance_in(scene, "stft").relevance, mask=explanation.mask)
    for answer in (explanation, both):
        assert torch.equal(render(scene, answer, rule).gain, explanation.mask.values)


@pytest.mark.parametrize("scale", ["magnitude", "log1p"])
@pytest.mark.parametrize("route", ["waveform", "spectrogram"])
def test_a_method_that_answers_in_sound_is_heard_as_it_plays(route: str, scale: Scale) -> None:
    scene = scene_of(route)
    heard = 0.5 * scene.batch.waveforms
    rendering = render(scene, Explanation(torch.tensor([0, 1, 2]), heard=heard), Normalise(), scale)
    assert torch.equal(rendering.heard, heard)
    assert close(rendering.rest, 0.5 * scene.batch.waveforms)
    assert close(rendering.gain, torch.full_like(rendering.gain, 0.5), 1e-3)
    assert close(rendering.kept_energy, torch.full((3,), 0.25), 1e-3)


def test_a_row_of_a_rendering_does_not_depend_on_its_batch() -> None:
    scene = scene_of()
    explanation = relevance_in(scene, "features")
    assert explanation.relevance is not None
    together = render(scene, explanation, Energy(0.4))
    for row in range(3):
        alone = Scene(scene.classifier, Batch.of([scene.batch.clips[row]]), scene.listening)
        own = Explanation(
            explanation.target[row : row + 1], relevance=Relevance(explanation.relevance.values[[row]], "features")
        )
        assert close(render(alone, own, Energy(0.4)).heard[0], together.heard[row])


# -- scale ------------------------------------------------------------------------------------------------------------


def test_at_log1p_the_mask_of_a_rule_is_an_exponent() -> None:
    scene = scene_of()
    explanation = relevance_in(scene, "stft")
    linear = render(scene, explanation, Normalise())
    log1p = render(scene, explanation, Normalise(), "log1p")
    heard = torch.expm1(linear.gain.double() * torch.log1p(scene.magnitude.double()))
    assert close(log1p.gain.double() * scene.magnitude.double(), heard, 1e-4)
    rest = torch.expm1((1 - linear.gain.double()) * torch.log1p(scene.magnitude.double()))
    assert close(log1p.rest_gain.double() * scene.magnitude.double(), rest, 1e-4)
    assert close(log1p.rest, scene.sound(log1p.rest_gain))
    assert not close(log1p.heard + log1p.rest, scene.batch.waveforms, 1e-2)


@pytest.mark.parametrize("scale", ["magnitude", "log1p"])
def test_a_methods_own_mask_has_its_own_scale_whatever_the_run_asks(scale: Scale) -> None:
    scene = scene_of()
    explanation = mask_in(scene, "stft", "log1p")
    assert explanation.mask is not None
    rendering = render(scene, explanation, Normalise(), scale)
    assert torch.equal(rendering.gain, mask_to_gain(explanation.mask.values, scene.magnitude, "log1p"))
    exponent = 1 - explanation.mask.values
    assert close(rendering.rest_gain, mask_to_gain(exponent, scene.magnitude, "log1p"))
    own = render(scene, mask_in(scene, "stft", "magnitude"), Normalise(), scale)
    assert close(own.heard + own.rest, scene.batch.waveforms)


# -- routes -----------------------------------------------------------------------------------------------------------


def test_both_routes_agree_for_a_mask_of_ones() -> None:
    through_sound, direct = scene_of("waveform"), scene_of("spectrogram")
    ones = torch.ones(tuple(direct.magnitude.shape))
    bare = through_sound.classifier.probabilities(through_sound.batch.waveforms)
    for scene in (through_sound, direct):
        assert close(scene.original, bare)
        assert close(scene.probabilities(ones), bare)
        assert close(scene.split(ones)[0], bare)
    assert direct.magnitude.shape[2] == 22  # one frame more than the features have


def test_the_routes_differ_for_a_mask_that_is_no_sounds_own() -> None:
    through_sound, direct = scene_of("waveform"), scene_of("spectrogram")
    gain = (torch.rand(tuple(direct.magnitude.shape), generator=torch.Generator().manual_seed(4)) > 0.8).float()
    assert not close(through_sound.probabilities(gain), direct.probabilities(gain), 1e-4)


@pytest.mark.parametrize("route", ["waveform", "spectrogram"])
def test_a_split_is_what_the_gain_keeps_and_what_it_leaves(route: str) -> None:
    scene = scene_of(route)
    gain = torch.rand(tuple(scene.magnitude.shape), generator=torch.Generator().manual_seed(5))
    heard, left = scene.split(gain)
    assert close(heard, scene.probabilities(gain))
    assert close(left, scene.probabilities(1 - gain))
    assert not close(heard, left, 1e-4)


@pytest.mark.parametrize(
    ("front_end", "listening"),
    [
        (yamnet(), None),
        (drsa_toy(), ListeningSTFT(RATE, 512, 128)),
        (drsa_toy(), ListeningSTFT(RATE, 480, 120)),
    ],
)
def test_the_spectrogram_route_is_refused_where_the_stfts_differ(front_end: Any, listening: Any) -> None:
    with pytest.raises(ExplanationError, match=r"small is not\. Use the waveform route"):
        scene_of("spectrogram", front_end, listening)


# -- where the relevance lies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_relevance_map_keeps_the_mass_of_the_relevance(domain: Domain) -> None:
    scene = scene_of()
    explanation = relevance_in(scene, domain)
    assert explanation.relevance is not None
    values = explanation.relevance.values
    lifted = scene.relevance_map(explanation)
    assert lifted.shape == scene.magnitude.shape
    gap = (lifted.double().sum((1, 2)) - values.double().flatten(1).sum(1)).abs()
    assert float(gap.max()) < 1e-5 * float(values.abs().flatten(1).sum(1).max())


def test_relevance_of_samples_lies_at_their_time_where_the_sound_is() -> None:
    scene = scene_of()
    values = torch.zeros(3, N_SAMPLES)
    values[:, 2400] = 1.0  # the centre of frame 10
    lifted = scene.relevance_map(Explanation(torch.tensor([0, 1, 2]), relevance=Relevance(values, "waveform")))
    share = scene.magnitude[:, :, 10] / scene.magnitude[:, :, 10].sum(1, keepdim=True)
    assert close(lifted[:, :, 10], share)
    lifted[:, :, 10] = 0
    assert not lifted.any()


def test_a_mask_points_at_the_magnitude_that_is_heard() -> None:
    scene = scene_of()
    explanation = mask_in(scene, "stft")
    assert explanation.mask is not None
    assert close(scene.relevance_map(explanation), explanation.mask.values * scene.magnitude)


# -- errors -----------------------------------------------------------------------------------------------------------


def test_another_rate_is_refused_with_the_way_out() -> None:
    classifier = classifier_on(drsa_toy())
    with pytest.raises(ExplanationError, match=r"works at 16000 Hz; the batch is at 8000 Hz.*Clip\.resampled"):
        Scene(classifier, batch_of(rate=8000), classifier.listening)
    with pytest.raises(ExplanationError, match="listening STFT at 8000 Hz"):
        Scene(classifier, batch_of(), ListeningSTFT(8000, 256, 64))


def test_a_network_that_eats_samples_has_no_feature_map() -> None:
    class Samples(SmallNet):
        def forward(self, samples: Tensor) -> Tensor:
            return super().forward(samples[:, None])

    classifier = AudioClassifier(Samples(), front_end=Identity(rate=RATE), labels=("a", "b", "c"), name="samples")
    scene = Scene(classifier, batch_of(), classifier.listening)
    values = torch.ones(3, 64, 21)
    for explanation in (
        Explanation(torch.tensor([0, 1, 2]), relevance=Relevance(values, "features")),
        Explanation(torch.tensor([0, 1, 2]), mask=Mask(values, "features")),
    ):
        with pytest.raises(ExplanationError, match="samples has no feature map; answer in 'waveform' or 'stft'"):
            render(scene, explanation, Normalise())
        if explanation.relevance is not None:
            with pytest.raises(ExplanationError, match="has no feature map"):
                scene.relevance_map(explanation)
    assert close(scene.original, classifier.probabilities(scene.batch.waveforms))


@pytest.mark.parametrize("domain", DOMAINS)
def test_maps_of_another_shape_or_number_of_rows_are_refused(domain: Domain) -> None:
    scene = scene_of()
    explanation = relevance_in(scene, domain)
    assert explanation.relevance is not None
    values = explanation.relevance.values
    one_row = Explanation(torch.tensor([0]), relevance=Relevance(values[:1], domain))
    short = Explanation(torch.tensor([0, 1, 2]), relevance=Relevance(values[..., :-1], domain))
    for wrong in (one_row, short):
        with pytest.raises(ExplanationError, match=r"rows|must have shape|does not lie"):
            render(scene, wrong, Normalise())
        with pytest.raises(ExplanationError, match=r"rows|must have shape|does not lie"):
            scene.relevance_map(wrong)


def test_a_sound_of_another_length_is_refused() -> None:
    scene = scene_of()
    with pytest.raises(ExplanationError, match=r"heard sound must have shape \(3, 5000\), got \(3, 4999\)"):
        render(scene, Explanation(torch.tensor([0, 1, 2]), heard=torch.zeros(3, 4999)), Normalise())


# -- what an explanation may be ---------------------------------------------------------------------------------------

TARGET = torch.tensor([0, 1])
ONES = torch.ones(2, 3, 4)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Explanation(TARGET), "at least one of `relevance`, `mask` and `heard`"),
        (lambda: Explanation(TARGET[None], heard=torch.zeros(1, 9)), r"int64 of shape \(B,\)"),
        (lambda: Explanation(TARGET.float(), heard=torch.zeros(2, 9)), "got torch.float32"),
        (lambda: Explanation(TARGET, mask=Mask(ONES[:1], "stft")), "mask has shape .* target has 2 rows"),
        (lambda: Explanation(TARGET, heard=torch.zeros(2, 1, 9)), r"axes \(B, T\)"),
        (lambda: Explanation(TARGET, heard=torch.full((2, 9), torch.nan)), r"NaN or infinite values in rows \[0, 1\]"),
        (lambda: Explanation(TARGET, heard=torch.zeros(2, 9), diagnostics={"gap": torch.zeros(3)}), "gap"),
        (lambda: Explanation(TARGET, heard=torch.zeros(2, 9), examples=((),)), "examples for 1 rows"),
        (lambda: Mask(2 * ONES, "stft"), r"\[0, 1\], got values from 2 to 2.*relevance"),
        (lambda: Mask(ONES, "waveform"), r"axes \(B, T\), got shape \(2, 3, 4\)"),
        (lambda: Mask(ONES[:, 0], "waveform", "log1p"), "no log1p scale"),
        (lambda: Mask(ONES, "stft", "db"), "one of .* got 'db'"),  # type: ignore[arg-type]
        (lambda: Relevance(ONES[0], "features"), "frequency before time"),
        (lambda: Relevance(ONES, "mel"), "domain must be one of"),  # type: ignore[arg-type]
        (lambda: Relevance(ONES / torch.tensor([0.0, 1, 1, 1]), "stft"), r"rows \[0, 1\]"),
        (lambda: Parts(("a", "b"), torch.ones(2, 3), torch.ones(2, 3).bool(), lambda k: Mask(ONES, "stft")), "2 parts"),
    ],
)
def test_what_is_no_explanation_is_refused_at_the_door(make: Any, complaint: str) -> None:
    with pytest.raises(ExplanationError, match=complaint):
        make()


# -- what ranks cells -------------------------------------------------------------------------------------------------


def test_relevance_ranks_feature_cells_by_the_mass_that_it_has_there() -> None:
    scene = scene_of()
    coarse, fine = scene.classifier.feature_grid(scene.n_samples), scene.listening.grid(scene.n_samples)
    assert coarse is not None
    own = relevance_in(scene, "features")
    assert own.relevance is not None
    assert torch.equal(scene.on_features(own), own.relevance.values)
    for domain in ("stft", "waveform"):
        signed = relevance_in(scene, domain)
        assert close(scene.on_stft(signed), scene.relevance_map(signed))
        assert close(scene.on_features(signed), lower_relevance(scene.relevance_map(signed), fine, coarse))
        assert float(scene.on_features(signed).min()) < 0 < float(scene.on_features(signed).max())


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("domain", DOMAINS)
def test_a_constant_mask_ranks_no_cell_above_another_not_even_the_loud_ones(domain: Domain, scale: Scale) -> None:
    if (domain, scale) == ("waveform", "log1p"):
        return
    scene = scene_of()
    constant = Mask(torch.full(map_shape(scene, domain), 0.97), domain, scale)
    explanation = Explanation(torch.tensor([0, 1, 2]), mask=constant)
    cells = scene.on_features(explanation)
    assert cells.shape == map_shape(scene, "features")
    assert close(cells, torch.full_like(cells, 0.97), 1e-6)


def test_a_mask_on_the_stft_ranks_feature_cells_by_the_share_of_their_magnitude_that_it_keeps() -> None:
    scene = scene_of()
    coarse, fine = scene.classifier.feature_grid(scene.n_samples), scene.listening.grid(scene.n_samples)
    assert coarse is not None
    explanation = mask_in(scene, "stft")
    assert explanation.mask is not None
    wanted = lower_mask(explanation.mask.values, fine, coarse, scene.magnitude)
    assert close(scene.on_features(explanation), wanted)
    both = Explanation(explanation.target, mask=explanation.mask, relevance=relevance_in(scene, "features").relevance)
    assert close(scene.on_features(both), wanted)  # a method's own mask comes first


def test_sound_ranks_cells_by_what_it_plays_of_them() -> None:
    scene = scene_of()
    heard = Explanation(torch.tensor([0, 1, 2]), heard=0.25 * scene.batch.waveforms)
    assert close(scene.on_features(heard), torch.full(map_shape(scene, "features"), 0.25), 1e-4)


def test_a_map_off_the_feature_grid_and_a_classifier_without_one_are_refused() -> None:
    scene = scene_of()
    with pytest.raises(ExplanationError, match="must have shape"):
        scene.on_features(Explanation(torch.tensor([0, 1, 2]), relevance=Relevance(torch.ones(3, 7, 7), "features")))
    eats_samples = AudioClassifier(SmallNet(), front_end=Identity(rate=RATE), labels=("a", "b", "c"))
    bare = Scene(eats_samples, batch_of(), eats_samples.listening)
    with pytest.raises(ExplanationError, match="has no feature map"):
        bare.on_features(mask_in(scene, "waveform"))


# -- what is left -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("front_end", [drsa_toy, yamnet])
def test_the_answers_are_those_to_the_sounds_themselves(front_end: Any, scale: Scale) -> None:
    scene = scene_of(front_end=front_end())  # one shares the listening STFT, the other does not
    rendering = render(scene, mask_in(scene, "stft", scale), Normalise())
    for found, sound in zip(
        scene.answers(rendering.heard, rendering.rest), (rendering.heard, rendering.rest), strict=True
    ):
        assert close(found, scene.classifier.probabilities(sound), 1e-5)
