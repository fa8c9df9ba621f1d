"""What the built-in plugins offer. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from earwitness.hookspecs import hookimpl
from earwitness.specs import ClassifierSpec, CommandSpec, ExplainerSpec

_GRADIENT = frozenset({"gradient"})


@hookimpl
def earwitness_explainers() -> Iterator[ExplainerSpec]:
    """Methods and controls."""
    yield ExplainerSpec(
        name="saliency",
        target="earwitness_plugins.gradients.saliency:Saliency",
        summary="Absolute gradient of the decision by the features or the samples.",
        paper="Simonyan, Vedaldi and Zisserman, ICLR workshop 2014",
        needs=_GRADIENT,
    )
    yield ExplainerSpec(
        name="integrated-gradients",
        target="earwitness_plugins.gradients.integrated_gradients:IntegratedGradients",
        summary="Gradients summed along the way from silence to the recording.",
        paper="Sundararajan, Taly and Yan, ICML 2017",
        needs=_GRADIENT,
    )
    yield ExplainerSpec(
        name="gradcam",
        target="earwitness_plugins.gradients.gradcam:GradCam",
        summary="Channels of the last convolution, weighted by their gradient.",
        paper="Selvaraju et al., ICCV 2017",
        needs=_GRADIENT | {"convolution"},
    )
    yield ExplainerSpec(
        name="class-mean",
        target="earwitness_plugins.class_mean:ClassMean",
        summary="What recordings of the target class have more of than the others; the smallest fitted explainer.",
        needs=frozenset({"fit"}),
    )
    yield from _controls()


def _controls() -> Iterator[ExplainerSpec]:
    for name, target, summary in (
        ("uniform-noise", "UniformNoise", "A mask of random numbers."),
        ("loudness", "Loudness", "The recording's own magnitude."),
        ("constant-gain", "ConstantGain", "The same gain everywhere (0.97)."),
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
        summary="Ten environmental sounds (ESC-10), any length; its weights come with the package.",
    )
    yield ClassifierSpec(
        name="toy-cnn",
        target="earwitness_plugins.classifiers.zoo:toy_cnn",
        summary="The DRSA thesis' small CNN for the synthetic two-class data; its weights come with the package.",
    )


@hookimpl
def earwitness_commands() -> Iterator[CommandSpec]:
    """Commands that need the plugins."""
    yield CommandSpec(
        name="train-classifier",
        target="earwitness_plugins.classifiers.command:train_classifier",
        summary="Train one of the packaged architectures on a data set.",
    )
