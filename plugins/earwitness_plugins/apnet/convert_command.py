"""``earwitness convert-apnet``: the authors' weights as a classifier of earwitness."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("convert-apnet")
@click.argument("arrays", type=click.Path(path_type=Path), metavar="FILE.npz")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Weights (safetensors).")
@click.option("--labels", required=True, metavar="A,B,…", help="The classes, in the order of the outputs.")
@click.option("--min-db", type=float, required=True, help="The scaler's minimum.")
@click.option("--max-db", type=float, required=True, help="The scaler's maximum.")
@click.option(
    "--configuration",
    type=click.Choice(["urbansound8k", "medley-solos-db", "speech-commands"]),
    default="urbansound8k",
    show_default=True,
    help="The published network whose weights they are.",
)
def convert_apnet(arrays: Path, out: Path, labels: str, min_db: float, max_db: float, configuration: str) -> None:
    """Convert the weights of a published APNet.

    FILE.npz holds the arrays of the authors' HDF5 file by their paths: encoder/conv1/kernel, encoder/conv1/bias, …,
    decoder/deconv3/bias, prototype_distances/kernel, mean/kernel and logits/kernel. The scaler's two numbers are in the
    file scaler.pickle beside it.

    \b
    Example:
      earwitness convert-apnet fold1.npz --labels air_conditioner,car_horn,… --min-db -100 --max-db 47.34 --out fold1
      earwitness explain street.wav --explainer apnet --classifier apnet --weights fold1
    """
    from earwitness_plugins.apnet.published import convert

    names = [label.strip() for label in labels.split(",")]
    state = convert(arrays, out, labels=names, scaler=(min_db, max_db), configuration=configuration)
    click.echo(f"{len(state['prototypes'])} prototypes, {sum(t.numel() for t in state.values()):,} parameters: {out}")
