"""What the benchmark offers. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from earwitness.hookspecs import hookimpl
from earwitness.specs import Column, CommandSpec, DatasetSpec, Direction, MetricSpec
from earwitness_bench.quantus.catalogue import specs as quantus_specs

_PATCH_COLUMNS: tuple[tuple[str, Direction, str], ...] = (
    ("deletion", "lower", "area of p over the fraction removed, most relevant first"),
    ("insertion", "higher", "area of p over the fraction put back, most relevant first"),
    ("deletion_LeRF", "higher", "least relevant removed first: insertion, read backwards"),
    ("insertion_LeRF", "lower", "least relevant put back first: deletion, read backwards"),
    ("gap", "higher", "insertion - deletion; 0 for a random order, on average"),
)
_REMOVALS: tuple[tuple[str, Direction, str], ...] = (
    ("FF", "higher", "p(recording) - p(rest) without the patterns of a relevance above this"),
    ("random", "neither", "the same without as many patterns drawn at random"),
)
_L2I = "Parekh, Parekh, Mozharovskyi, d'Alché-Buc and Richard, NeurIPS 2022"
_LMAC = "Paissan, Ravanelli and Subakan, ICML 2024"


@hookimpl
def earwitness_datasets() -> Iterator[DatasetSpec]:
    """Recordings."""
    yield DatasetSpec(
        name="toy",
        target="earwitness_bench.datasets.toy:Toy",
        summary="Synthetic two-class sounds; the clean waveform of every object is known.",
    )
    yield DatasetSpec(
        name="esc10",
        target="earwitness_bench.datasets.esc10:ESC10",
        summary="400 environmental recordings of ten classes, five folds.",
        paper="Piczak, ACM Multimedia 2015",
        licence="CC BY 3.0",
    )
    yield DatasetSpec(
        name="esc50",
        target="earwitness_bench.datasets.esc50:esc50",
        summary="2000 environmental recordings of fifty classes, five folds.",
        paper="Piczak, ACM Multimedia 2015",
        licence="CC BY-NC 3.0",
    )
    yield DatasetSpec(
        name="urbansound8k",
        target="earwitness_bench.datasets.urbansound8k:urbansound8k",
        summary="8732 urban sounds of ten classes, ten folds.",
        paper="Salamon, Jacoby and Bello, ACM Multimedia 2014",
        licence="CC BY-NC 3.0",
    )
    yield DatasetSpec(
        name="speech-commands",
        target="earwitness_bench.datasets.speech_commands:speech_commands",
        summary="105,829 spoken words of 35 (or 30) classes; training, validation, testing.",
        paper="Warden, arXiv:1804.03209",
        licence="CC BY 4.0",
    )
    yield DatasetSpec(
        name="gtzan",
        target="earwitness_bench.datasets.gtzan:gtzan",
        summary="1000 excerpts of music of ten genres, from a copy of your own; fault-filtered split.",
        paper="Tzanetakis and Cook, IEEE TSAP 2002; Sturm, arXiv:1306.1461",
        licence="none",
    )
    yield DatasetSpec(
        name="medley-solos-db",
        target="earwitness_bench.datasets.medley_solos_db:medley_solos_db",
        summary="21,571 clips of eight solo instruments; training, validation, test.",
        paper="Lostanlen and Cella, ISMIR 2016",
        licence="CC BY 4.0",
    )
    yield DatasetSpec(
        name="mixtures",
        target="earwitness_bench.datasets.mixtures:Mixtures",
        summary="Two recordings mixed 0.8/0.2; both sources are known.",
        paper=_LMAC,
    )
    yield DatasetSpec(
        name="overlaps",
        target="earwitness_bench.datasets.overlaps:Overlaps",
        summary="Two or three recordings of different classes at once: multilabel, all sources known.",
    )
    yield DatasetSpec(
        name="noisy",
        target="earwitness_bench.datasets.mixtures:Noisy",
        summary="Any data set with pink, babble-like or recorded noise at a given SNR; the sources are known.",
        paper=_LMAC,
    )
    yield DatasetSpec(
        name="folder",
        target="earwitness_bench.datasets.folder:Folder",
        summary="Any tree of sound files; the first-level folders are the labels.",
    )


@hookimpl
def earwitness_metrics() -> Iterator[MetricSpec]:
    """Scores."""
    yield from _masks()
    yield from _randomisation()
    yield from quantus_specs()
    yield from _patch_flipping()
    yield from _parts()
    yield from _fidelity()
    yield from _localisation()


def _masks() -> Iterator[MetricSpec]:
    yield MetricSpec(
        name="own-mask",
        target="earwitness_bench.metrics.faithfulness:OwnMask",
        summary="FF, AI, AD, AG and Fid-In at each method's own mask, with the energy it keeps.",
        paper=_LMAC,
        columns=(
            Column(name="FF", direction="higher", summary="p(original) - p(rest)"),
            Column(name="FF_median", direction="higher", aggregate="median", summary="the same, median (L2I)"),
            Column(name="AI", direction="higher", summary="% of clips whose p rises in what is heard"),
            Column(name="AD", direction="lower", summary="% of p lost in what is heard"),
            Column(name="AG", direction="higher", summary="% of the possible gain in what is heard"),
            Column(name="Fid-In", direction="higher", summary="share of clips with the same decision on what is heard"),
            Column(name="AD_recipe", direction="lower", summary="AD on the scale of the published table"),
            Column(name="mean_mask", direction="neither"),
            Column(name="kept_energy", direction="neither"),
        ),
    )
    for form, headline in (("soft", True), ("hard", False)):
        yield MetricSpec(
            name=f"matched-budget-{form}",
            target=f"earwitness_bench.metrics.faithfulness:matched_budget_{form}",
            summary=f"FF, AI, AD, AG and Fid-In as areas over kept signal energy, 10-90 % ({form} warp).",
            paper=_LMAC,
            columns=tuple(
                Column(
                    name=f"{name}@{form}",
                    direction="lower" if name == "AD" else "higher",
                    headline=headline,
                    summary=f"area of {name} over kept energy",
                )
                for name in ("FF", "AI", "AD", "AG", "Fid-In")
            ),
        )
    yield MetricSpec(
        name="mask-shape",
        target="earwitness_bench.metrics.mask_shape:MaskShape",
        summary="SPS (Gini index) and COMP (entropy) of the mask on the listening STFT.",
        paper=_LMAC,
        attribution_only=True,
        columns=(
            Column(name="SPS", direction="higher", summary="0: all bins alike, 1: a single one"),
            Column(name="COMP", direction="lower", summary="nats"),
        ),
    )


def _randomisation() -> Iterator[MetricSpec]:
    yield MetricSpec(
        name="cascading-randomisation",
        version=2,
        target="earwitness_bench.metrics.randomisation:CascadingRandomisation",
        summary="Does the map change when the classifier's layers are randomised, from the output down?",
        paper="Adebayo et al., NeurIPS 2018; Wang et al., IEEE TIP 2004",
        columns=(
            Column(
                name="SSIM_randomised",
                direction="lower",
                summary="area of the similarity to the original map, from no layer random to all",
            ),
            Column(name="SSIM_all_random", direction="lower", summary="the same where all layers are random"),
            Column(name="SSIM_other_clip", direction="neither", summary="of the original maps of two clips"),
            Column(
                name="degenerate_randomised",
                direction="neither",
                summary="share of stages with a constant map, as an area",
            ),
        ),
    )


def _localisation() -> Iterator[MetricSpec]:
    yield MetricSpec(
        name="localisation",
        target="earwitness_bench.metrics.localisation:Localisation",
        summary="Does the relevance lie where the target's clean source is, and does one hear it?",
        needs=frozenset({"sources"}),
        paper="Arras, Osman and Samek, Information Fusion 2022; Le Roux et al., ICASSP 2019",
        columns=(
            Column(name="relevance_mass", direction="higher", headline=True),
            Column(name="relevance_rank", direction="higher", headline=True),
            Column(name="SI-SDR_improvement", direction="higher", summary="dB, of what is heard over the recording"),
        ),
    )
    yield MetricSpec(
        name="resemblance",
        target="earwitness_bench.metrics.localisation:Resemblance",
        summary="Does what is heard sound like the target's clean source, or like what was mixed into it?",
        needs=frozenset({"sources"}),
        paper="Parekh et al., NeurIPS 2022; Le Roux et al., ICASSP 2019",
        columns=(
            Column(name="SI-SDR_target", direction="higher", summary="dB"),
            Column(name="SI-SDR_corruption", direction="lower", summary="dB, against all that is not the target"),
            Column(name="resembles_target", direction="higher", summary="share of clips that are more like the target"),
        ),
    )


def _parts() -> Iterator[MetricSpec]:
    needs = frozenset({"sources", "parts"})
    yield MetricSpec(
        name="parts-objects",
        target="earwitness_bench.metrics.parts:PartsObjects",
        summary="Which part is which sound: one part for each, and nothing else in it?",
        needs=needs,
        columns=(
            Column(name="matched_share", headline=True, summary="of a part's relevance on its sound, over all sounds"),
            Column(name="found", summary="share of the sounds that are their part's main one"),
            Column(name="share_gain", summary="matched_share, less the whole map's"),
            Column(name="part_SI-SDR_improvement", summary="dB, of the sound of a part over the recording"),
        ),
    )
    yield MetricSpec(
        name="parts-target",
        target="earwitness_bench.metrics.parts:PartsTarget",
        summary="In a mixture of classes: does one part hold the target's sound, and nothing else?",
        needs=needs,
        columns=(
            Column(name="target_F1", headline=True, summary="of the two below, of the part that does best"),
            Column(name="target_purity", summary="share of that part's relevance on the target's sound"),
            Column(name="target_concentration", summary="share of all relevance on the target's sound in that part"),
            Column(name="target_F1_whole", direction="neither", summary="what the whole map has as one part"),
        ),
    )


def _patch_flipping() -> Iterator[MetricSpec]:
    for removal, becomes in (
        ("floor", "digital silence"),
        ("mean", "their band's mean"),
        ("zero", "0, which may be loud"),
    ):
        yield MetricSpec(
            name=f"patches-{removal}",
            target=f"earwitness_bench.metrics.patch_flipping:patches_{removal}",
            summary=f"Deletion and insertion over time-frequency patches, which become {becomes}.",
            paper="Samek et al., IEEE TNNLS 2017; Petsiuk, Das and Saenko, BMVC 2018",
            columns=tuple(
                Column(
                    name=f"{name}@{removal}",
                    direction=direction,
                    headline=removal == "floor" and name in ("deletion", "insertion"),
                    summary=summary,
                )
                for name, direction, summary in _PATCH_COLUMNS
            ),
        )
    yield MetricSpec(
        name="aupc-thesis",
        target="earwitness_bench.metrics.patch_flipping:ThesisAUPC",
        summary="Patch flipping as the DRSA thesis codes it. A trap: many parts win, even white noise (see its docs).",
        paper="Chormai et al., IEEE TPAMI 2024, in the coding of the DRSA audio thesis",
        columns=(
            Column(name="aupc_thesis", direction="lower", summary="as coded: never compare across numbers of parts"),
            Column(name="aupc_true_fraction", direction="lower", summary="the same at the fraction really flipped"),
            Column(name="delta_aupc_thesis", direction="higher", summary="of the whole map, less that of its parts"),
            Column(name="delta_aupc_true_fraction", direction="higher", summary="the same at the true fraction"),
        ),
        version=2,
    )


def _fidelity() -> Iterator[MetricSpec]:
    yield MetricSpec(
        name="fidelity",
        target="earwitness_bench.metrics.fidelity:TopKFidelity",
        summary="Whether a method that predicts on its own has the classifier's decision among its first classes.",
        paper=_L2I,
        columns=tuple(Column(name=f"top-{k}", summary=f"share of clips, of {k} classes") for k in (1, 3, 5)),
    )
    yield MetricSpec(
        name="multilabel-fidelity",
        target="earwitness_bench.metrics.fidelity:MultilabelFidelity",
        summary="The same for classifiers of several labels: does it rank the decided classes first, clip by clip?",
        paper=_L2I,
        columns=(
            Column(name="average_precision", summary="area under each clip's precision-recall curve over classes"),
            Column(name="max_F1", summary="best F1 over thresholds"),
        ),
    )
    yield MetricSpec(
        name="l2i-faithfulness",
        target="earwitness_bench.metrics.fidelity:PatternFaithfulness",
        summary="FF when patterns above a threshold are taken out of the sound; median, beside as many random ones.",
        paper=_L2I,
        needs=frozenset({"parts"}),
        columns=tuple(
            Column(name=f"{kind}@{threshold}", direction=direction, aggregate="median", summary=summary)
            for kind, direction, summary in _REMOVALS
            for threshold in (0.9, 0.7, 0.5, 0.3, 0.1)
        ),
    )


@hookimpl
def earwitness_commands() -> Iterator[CommandSpec]:
    """Commands."""
    for name, summary in (
        ("bench", "Score explainers on data sets and keep every result."),
        ("leaderboard", "Rank the results of a bench run."),
        ("report", "Write the results of a bench run as pages to be read, seen and heard."),
        ("listening-test", "Ask people: a blind test of what explainers keep, and its answers."),
        ("reproduce", "Compute one result of a bench run again, and compare."),
        ("study", "Experiments that are no metric, such as the cross-class matrix."),
        ("download", "Fetch a data set, checked by checksum."),
        ("demo", "A first tour: explanations one can hear, and a leaderboard."),
    ):
        module = name.replace("-", "_")
        yield CommandSpec(name=name, target=f"earwitness_bench.commands.{module}:{module}", summary=summary)
