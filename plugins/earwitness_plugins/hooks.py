"""What the built-in plugins offer. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from earwitness.hookspecs import hookimpl
from earwitness.specs import ClassifierSpec, CommandSpec, ExplainerSpec

_GRADIENT = frozenset({"gradient"})


@hookimpl
def earwitness_explainers() -> Iterator[ExplainerSpec]:
    """Methods and controls."""
    yield from _gradients()
    yield from _perturbations()
    yield ExplainerSpec(
        name="lrp",
        target="earwitness_plugins.lrp.explainer:LRP",
        summary="The decision, shared out layer by layer down to the features.",
        paper="Bach et al., PLoS ONE 2015; Montavon et al., 2019",
        needs=_GRADIENT,
    )
    yield ExplainerSpec(
        name="class-mean",
        target="earwitness_plugins.class_mean:ClassMean",
        summary="What recordings of the target class have more of than the others; the smallest fitted explainer.",
        needs=frozenset({"fit"}),
    )
    yield ExplainerSpec(
        name="drsa",
        target="earwitness_plugins.drsa.explainer:DRSA",
        summary="LRP's relevance, taken apart at a hidden layer: parts that one can hear and that add up.",
        paper="Chormai, Herrmann, Müller and Montavon, IEEE TPAMI 2024",
        needs=frozenset({"gradient", "relu", "fit"}),
    )
    yield from _interpreters()
    yield ExplainerSpec(
        name="apnet",
        target="earwitness_plugins.apnet.explainer:APNet",
        summary="A classifier of its own that compares with stored sounds: which, in which bands, how much each says.",
        paper="Zinemanas, Rocamora, Miron, Font and Serra, Electronics 2021",
        scope="by-design",
    )
    for name, target, summary in (
        ("lmac", "explainer:LMAC", "A decoder's mask: heard, it convinces the classifier; the rest does not."),
        ("lmac-paper", "variants:lmac_paper", "The same, trained with the published, unbounded objective."),
        ("lmac-budget", "variants:lmac_budget", "The same, trained to rank: good at every share of the energy."),
    ):
        yield ExplainerSpec(
            name=name,
            target=f"earwitness_plugins.lmac.{target}",
            summary=summary,
            paper="Paissan, Ravanelli and Subakan, ICML 2024",
            needs=frozenset({"gradient", "convolution", "fit"}),
        )
    yield from _controls()


def _interpreters() -> Iterator[ExplainerSpec]:
    for name, target, summary in (
        ("l2i", "L2I", "Learnt spectral patterns that one can hear, and what each adds to the decision."),
        ("l2i-paper", "l2i_paper", "The same, of the published size and training."),
    ):
        yield ExplainerSpec(
            name=name,
            target=f"earwitness_plugins.l2i.explainer:{target}",
            summary=summary,
            paper="Parekh, Parekh, Mozharovskyi, d'Alché-Buc and Richard, NeurIPS 2022",
            needs=frozenset({"convolution", "fit"}),
        )


def _gradients() -> Iterator[ExplainerSpec]:
    for name, target, more_needs, summary, paper in (
        (
            "saliency",
            "saliency:Saliency",
            (),
            "Absolute gradient of the decision by the features or the samples.",
            "Simonyan, Vedaldi and Zisserman, ICLR workshop 2014",
        ),
        (
            "input-x-gradient",
            "saliency:InputXGradient",
            (),
            "The input times its gradient.",
            "Shrikumar et al., 2016",
        ),
        (
            "smoothgrad",
            "sampled:SmoothGrad",
            (),
            "Absolute gradient, averaged over noisy copies of the input.",
            "Smilkov et al., 2017",
        ),
        (
            "integrated-gradients",
            "integrated_gradients:IntegratedGradients",
            (),
            "Gradients summed along the way from silence to the recording.",
            "Sundararajan, Taly and Yan, ICML 2017",
        ),
        (
            "gradient-shap",
            "sampled:GradientShap",
            (),
            "Gradients at random points between silence and the noisy recording.",
            "Lundberg and Lee, NeurIPS 2017; Erion et al., 2021",
        ),
        (
            "deeplift",
            "deeplift:DeepLift",
            (),
            "Change of the decision from silence, shared out layer by layer (rescale rule).",
            "Shrikumar, Greenside and Kundaje, ICML 2017",
        ),
        (
            "guided-backprop",
            "guided:GuidedBackprop",
            ("relu",),
            "Gradient that passes each ReLU only where it is positive.",
            "Springenberg et al., ICLR workshop 2015",
        ),
        (
            "gradcam",
            "gradcam:GradCam",
            ("convolution",),
            "Channels of the last convolution, weighted by their gradient.",
            "Selvaraju et al., ICCV 2017",
        ),
        (
            "guided-gradcam",
            "guided:GuidedGradCam",
            ("convolution", "relu"),
            "Guided backprop where GradCAM looks.",
            "Selvaraju et al., ICCV 2017",
        ),
    ):
        yield ExplainerSpec(
            name=name,
            target=f"earwitness_plugins.gradients.{target}",
            summary=summary,
            paper=paper,
            needs=_GRADIENT.union(more_needs),
        )


def _perturbations() -> Iterator[ExplainerSpec]:
    for name, target, summary, paper in (
        (
            "occlusion",
            "Occlusion",
            "Drop of the decision under a sliding window of silence.",
            "Zeiler and Fergus, ECCV 2014",
        ),
        (
            "feature-ablation",
            "FeatureAblation",
            "Drop of the decision when one time-frequency segment is silenced.",
            "Zeiler and Fergus, ECCV 2014",
        ),
        (
            "kernel-shap",
            "KernelShap",
            "Shapley values of time-frequency segments, by weighted regression.",
            "Lundberg and Lee, NeurIPS 2017",
        ),
    ):
        yield ExplainerSpec(
            name=name,
            target=f"earwitness_plugins.gradients.perturbation:{target}",
            summary=summary,
            paper=paper,
        )


def _controls() -> Iterator[ExplainerSpec]:
    for name, target, summary in (
        ("uniform-noise", "UniformNoise", "A mask of random numbers."),
        ("loudness", "Loudness", "The recording's own magnitude."),
        ("constant-gain", "ConstantGain", "The same gain everywhere (0.97)."),
        ("noise-parts", "NoiseParts", "Parts of white noise, as many as wanted."),
        ("all-ones", "all_ones", "Keeps everything."),
        ("all-zeros", "all_zeros", "Keeps nothing."),
    ):
        yield ExplainerSpec(
            name=name, target=f"earwitness_plugins.controls:{target}", summary=f"Control: {summary}", scope="control"
        )


@hookimpl
def earwitness_classifiers() -> Iterator[ClassifierSpec]:
    """The zoo."""
    yield ClassifierSpec(
        name="esc10-cnn",
        target="earwitness_plugins.classifiers.zoo:esc10_cnn",
        retrain="earwitness_plugins.classifiers.retraining:esc10_cnn",
        summary="Ten environmental sounds (ESC-10), any length; its weights come with the package.",
    )
    yield ClassifierSpec(
        name="toy-cnn",
        target="earwitness_plugins.classifiers.zoo:toy_cnn",
        retrain="earwitness_plugins.classifiers.retraining:toy_cnn",
        summary="The DRSA thesis' small CNN for the synthetic two-class data; its weights come with the package.",
    )
    yield ClassifierSpec(
        name="toy-wave-cnn",
        target="earwitness_plugins.classifiers.zoo:toy_wave_cnn",
        summary="A small CNN on the samples themselves, for the synthetic data; its weights come with the package.",
    )
    for name, title, paper in (
        ("sb-cnn", "SB-CNN", "Salamon and Bello, IEEE SPL 2017"),
        ("att-crnn", "Att-CRNN", "de Andrade et al., arXiv:1808.08929"),
    ):
        yield ClassifierSpec(
            name=name,
            target=f"earwitness_plugins.classifiers.zoo:{name.replace('-', '_')}",
            summary=f"{title}, to compare with, for ESC-10; train it first (train-classifier {name}).",
            paper=paper,
        )
    yield ClassifierSpec(
        name="yamnet",
        target="earwitness_plugins.classifiers.zoo:yamnet",
        summary="521 classes of AudioSet (MobileNetV1); weights: Google, Apache-2.0, from EARWITNESS_MODELS.",
        paper="Howard et al., arXiv:1704.04861; Gemmeke et al., ICASSP 2017",
    )
    yield ClassifierSpec(
        name="efficientat-mn04",
        target="earwitness_plugins.classifiers.zoo:efficientat_mn04",
        summary="527 classes of AudioSet (MobileNetV3, width 0.4); weights: MIT, fetched when first used.",
        paper="Schmid, Koutini and Widmer, ICASSP 2023",
    )
    for backbone in ("yamnet", "efficientat-mn04"):
        yield ClassifierSpec(
            name=f"{backbone}-esc10",
            target=f"earwitness_plugins.classifiers.zoo:{backbone.replace('-', '_')}_esc10",
            summary=f"Ten environmental sounds (ESC-10): a packaged linear layer on the embedding of {backbone}.",
        )
    yield ClassifierSpec(
        name="efficientat-mn04-overlaps",
        target="earwitness_plugins.classifiers.zoo:efficientat_mn04_overlaps",
        summary="Several of ESC-10's classes at once (multilabel): a packaged linear layer on efficientat-mn04.",
    )

    yield ClassifierSpec(
        name="apnet",
        target="earwitness_plugins.apnet.classifier:apnet",
        summary="A network of prototypes that you trained (`earwitness fit apnet`); weights: the folder that it left.",
        paper="Zinemanas, Rocamora, Miron, Font and Serra, Electronics 2021",
    )


@hookimpl
def earwitness_commands() -> Iterator[CommandSpec]:
    """Commands that need the plugins."""
    yield CommandSpec(
        name="train-classifier",
        target="earwitness_plugins.classifiers.command:train_classifier",
        summary="Train one of the packaged architectures on a data set.",
    )
    yield CommandSpec(
        name="train-head",
        target="earwitness_plugins.classifiers.head_command:train_head",
        summary="Train a linear classifier on a published network's embeddings.",
    )
    yield CommandSpec(
        name="evaluate-classifier",
        target="earwitness_plugins.classifiers.evaluate_command:evaluate_classifier",
        summary="How often a classifier is right on a data set.",
    )
    yield CommandSpec(
        name="cross-validate",
        target="earwitness_plugins.classifiers.cross_validate_command:cross_validate",
        summary="Accuracy of networks over rotating folds, beside each other, with their parameters.",
    )
    yield CommandSpec(
        name="convert-apnet",
        target="earwitness_plugins.apnet.convert_command:convert_apnet",
        summary="Turn the authors' weights of APNet into a classifier.",
    )
    yield CommandSpec(
        name="prototypes",
        target="earwitness_plugins.apnet.book_command:prototypes",
        summary="The prototypes of a trained APNet as a book to look at and to listen to.",
    )
    yield CommandSpec(
        name="refine",
        target="earwitness_plugins.apnet.refine_command:refine",
        summary="Prune, edit, retrain and undo the prototypes of a trained APNet.",
    )
    yield CommandSpec(
        name="audit",
        target="earwitness_plugins.lrp.command:audit",
        summary="Which rule LRP has for each module, what is uncovered, and where relevance goes.",
    )
    yield CommandSpec(
        name="learn-patterns",
        target="earwitness_plugins.sparse_nmf.command:learn_patterns",
        summary="Learn spectral patterns from a data set by Sparse-NMF; see and hear each.",
    )
