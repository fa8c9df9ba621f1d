"""A small network that eats samples: convolutions along time, from the waveform to the logits."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from earwitness.audio.front_end import Identity

RATE = 16000
_KERNEL = 256  # samples: 16 ms, so a filter tells apart tones that are some 60 Hz from each other
_STRIDE = 32  # samples: 2 ms


def waveform_front_end() -> Identity:
    """The samples themselves, at 16 kHz."""
    return Identity(rate=RATE)


class WaveformCNN(nn.Module):
    """A learned filter bank and blocks of convolution, batch normalisation and ReLU; any length.

    The first convolution is a bank of filters of 16 ms each 2 ms; its rectified bands are averaged over 8 ms. Every
    layer is a module that is used once, in the order of definition. ``blocks.filters.relu`` is the output of the filter
    bank, (B, 64, T/32), and ``blocks.block3.relu`` the last convolutional map, (B, 96, T/512), rounded up.

    Parameters
    ----------
    n_classes : int
        C.
    n_filters : int
        Of the filter bank.
    channels : tuple of int
        Of the blocks that follow.
    dropout : float, in [0, 1)
        Share of the pooled features that is dropped while training.
    """

    def __init__(
        self,
        n_classes: int = 2,
        n_filters: int = 64,
        channels: tuple[int, ...] = (64, 64, 96),
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        filters = nn.Conv1d(1, n_filters, _KERNEL, stride=_STRIDE, padding=(_KERNEL - _STRIDE) // 2, bias=False)
        blocks = OrderedDict[str, nn.Module](filters=_block(filters, nn.AvgPool1d(4, ceil_mode=True)))
        n_in = n_filters
        for number, n_out in enumerate(channels, start=1):
            pool = nn.MaxPool1d(2, ceil_mode=True) if number < len(channels) else None
            blocks[f"block{number}"] = _block(nn.Conv1d(n_in, n_out, 9, padding=4, bias=False), pool)
            n_in = n_out
        self.blocks = nn.Sequential(blocks)
        self.head = nn.Sequential(
            OrderedDict(
                mean_over_time=nn.AdaptiveAvgPool1d(1),
                flatten=nn.Flatten(),
                dropout=nn.Dropout(dropout),
                linear=nn.Linear(n_in, n_classes),
            )
        )

    def forward(self, samples: Tensor) -> Tensor:
        """Samples to logits.

        Parameters
        ----------
        samples : Tensor (B, 1, T), float32
            In [-1, 1], at 16 kHz; T of at least 32 samples.

        Returns
        -------
        Tensor (B, C), float32
        """
        return self.head(self.blocks(samples))  # type: ignore[no-any-return]


def _block(convolution: nn.Conv1d, pool: nn.Module | None) -> nn.Sequential:
    layers = OrderedDict[str, nn.Module](
        convolution=convolution, normalisation=nn.BatchNorm1d(convolution.out_channels), relu=nn.ReLU()
    )
    if pool is not None:
        layers["pool"] = pool
    return nn.Sequential(layers)
