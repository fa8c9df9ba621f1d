"""Refining a network by its prototypes: leaving out what is redundant, and editing by hand.

Pure functions: a network's prototypes are taken out as a :class:`PrototypeSet`, changed, and put into a new network.
M prototypes, C channels, F' bands and T' frames of the latent map, K classes. "paper" and "code" name the two rules
where the paper and its published code differ.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from earwitness.errors import ConfigurationError, nearest
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, Decoder

Rule = Literal["code", "paper"]
DecoderStart = Literal["anew", "sliced"]


@dataclass(frozen=True, eq=False)
class PrototypeSet:
    """The prototypes of a network and what hangs on them.

    Attributes
    ----------
    latents : Tensor (M, C, F', T'')
        P.
    frequency_weights : Tensor (M, F')
        H.
    class_weights : Tensor (M, K)
        W.
    classes : Tensor (M,), int64
        What each prototype stands for.
    """

    latents: Tensor
    frequency_weights: Tensor
    class_weights: Tensor
    classes: Tensor

    @classmethod
    def of(cls, network: AudioPrototypeNetwork, classes: Tensor) -> PrototypeSet:
        """Those of a network, copied; ``classes`` (M,), int64, as of :func:`~.prototypes.classes_of_latents`."""
        return cls(
            latents=network.prototypes.detach().clone(),
            frequency_weights=network.frequency_weights.detach().clone(),
            class_weights=network.class_weights.detach().clone(),
            classes=classes.clone(),
        )

    def __len__(self) -> int:
        return len(self.latents)

    def select(self, rows: Tensor) -> PrototypeSet:
        """Some of them, in the order of ``rows`` (int64)."""
        return PrototypeSet(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def put_into(self, network: AudioPrototypeNetwork) -> AudioPrototypeNetwork:
        """A copy of a network that has these prototypes in place of its own."""
        edited = copy.deepcopy(network)
        edited.prototypes = nn.Parameter(self.latents.clone())
        edited.frequency_weights = nn.Parameter(self.frequency_weights.clone())
        edited.class_weights = nn.Parameter(self.class_weights.clone())
        return edited


def sorting(prototypes: PrototypeSet) -> Tensor:
    """The order of their classes, and within a class as they were: rows (M,), int64."""
    return prototypes.classes.argsort(stable=True)


def class_sums(prototypes: PrototypeSet) -> Tensor:
    """Σ |W| over the prototypes of each class (row), for each class (column): Tensor (K, K)."""
    return torch.stack([_column_sums(prototypes, label) for label in range(prototypes.class_weights.shape[1])])


# --- redundancy


CLOSENESS = 0.5
"""Share of the mean distance, added to the smallest, below which prototypes are close (Eq. 12)."""


def redundant_prototypes(prototypes: PrototypeSet, rule: Rule = "code", *, closeness: float = CLOSENESS) -> Tensor:
    """Which prototypes are too close to another one.

    Both rules call a pair close when D_jl < min D + closeness · mean D (Eq. 12), D the squared distance (Eq. 11).

    ``"code"``: the mean is over all M² pairs, each prototype with itself too; one after the other, in the order of
    their classes, looks at its nearest neighbour only, gone or not, and goes if that one is close and of the same
    class, unless another one went for it before. ``"paper"``: the mean is over different prototypes; of each close
    pair, closest first, the later one goes where both are still there. A class keeps its last prototype either way.

    Parameters
    ----------
    prototypes : PrototypeSet
    rule : {"code", "paper"}
    closeness : float
        The paper's 0.5; less leaves fewer out.

    Returns
    -------
    Tensor (M,), bool
        True for those to leave out.

    Raises
    ------
    ConfigurationError
        The rule is unknown, or the closeness not a positive number.
    """
    _check_rule(rule)
    if not 0 < closeness < float("inf"):
        raise ConfigurationError(f"Closeness is a positive share of the mean distance, such as 0.5; got {closeness}.")
    gone = torch.zeros(len(prototypes), dtype=torch.bool)
    if len(prototypes) < 2:
        return gone
    flat = prototypes.latents.detach().double().cpu().flatten(1)
    distances = torch.cdist(flat, flat).square()
    themselves = torch.eye(len(flat), dtype=torch.bool)
    others = distances.masked_fill(themselves, torch.inf)
    mean = distances.mean() if rule == "code" else distances[~themselves].mean()
    threshold = others.min() + closeness * mean
    return (_nearest_first if rule == "code" else _closest_pairs)(others, prototypes.classes.cpu(), threshold)


def _nearest_first(others: Tensor, classes: Tensor, threshold: Tensor) -> Tensor:
    gone, kept = torch.zeros(len(others), dtype=torch.bool), torch.zeros(len(others), dtype=torch.bool)
    for j in classes.argsort(stable=True).tolist():
        neighbour = int(others[j].argmin())
        if others[j, neighbour] < threshold and not kept[j] and classes[j] == classes[neighbour]:
            gone[j] = True
            kept[neighbour] = True
    return gone


def _closest_pairs(others: Tensor, classes: Tensor, threshold: Tensor) -> Tensor:
    gone = torch.zeros(len(others), dtype=torch.bool)
    earlier, later = torch.triu_indices(len(others), len(others), offset=1)
    order = others[earlier, later].argsort(stable=True)
    for j, after in zip(earlier[order].tolist(), later[order].tolist(), strict=True):
        if not others[j, after] < threshold:
            break
        siblings = (classes == classes[after]) & ~gone
        if not gone[j] and not gone[after] and int(siblings.sum()) > 1:
            gone[after] = True
    return gone


def redundant_channels(prototypes: PrototypeSet, n_channels: int = 8, rule: Rule = "code") -> Tensor:
    """Which channels of the latent map say what another one says.

    Of the closest pairs of channels (k, q), q < k, one each goes: k, or q where k is gone already. Pairs are gone
    through in the order of k and q, and there are as few of them as it takes to leave ``n_channels`` out. (The code
    leaves that order to ``numpy.argpartition``.)

    ``"code"``: the distance is Σ_j,t,f (P_j[k] - P_j[q])², of each prototype with itself. ``"paper"``: Eq. 13 as it
    stands, Σ_i,j,t,f (P_i[k] - P_j[q])², of all with all.

    Parameters
    ----------
    prototypes : PrototypeSet
    n_channels : int
        To leave out, in [1, C - 1]; the paper's 8.
    rule : {"code", "paper"}

    Returns
    -------
    Tensor (C,), bool
        True for those to leave out.

    Raises
    ------
    ConfigurationError
        The rule is unknown, or nothing would be left.
    """
    _check_rule(rule)
    latents = prototypes.latents.detach().double().cpu()
    total = latents.shape[1]
    if not 1 <= n_channels < total:
        raise ConfigurationError(f"From 1 to {total - 1} of {total} channels can be left out, not {n_channels}.")
    maps = latents.transpose(0, 1).flatten(2)  # (C, M, F'T')
    if rule == "code":
        flat = maps.flatten(1)
        distances = torch.cdist(flat, flat).square()
    else:
        squares, sums = maps.square().sum((1, 2)), maps.sum(1)
        distances = len(prototypes) * (squares[:, None] + squares[None]) - 2 * sums @ sums.T
    pairs = torch.tril_indices(total, total, offset=-1).T  # by k, then by q
    closest = distances[pairs[:, 0], pairs[:, 1]].argsort(stable=True)
    for n_pairs in range(n_channels, len(pairs) + 1):
        gone = _one_of_each(pairs[closest[:n_pairs].sort().values].tolist(), n_channels, total)
        if int(gone.sum()) == n_channels:
            break
    return gone


def _one_of_each(pairs: list[list[int]], n_channels: int, total: int) -> Tensor:
    gone = torch.zeros(total, dtype=torch.bool)
    for k, q in pairs:
        if int(gone.sum()) < n_channels:
            gone[q if gone[k] else k] = True
    return gone


def without_channels(
    network: AudioPrototypeNetwork, gone: Tensor, *, decoder: DecoderStart, generator: torch.Generator
) -> AudioPrototypeNetwork:
    """A network without some channels of its latent map. Its decoder must be trained again.

    Parameters
    ----------
    network : AudioPrototypeNetwork
    gone : Tensor (C,), bool
    decoder : {"anew", "sliced"}
        Glorot uniform weights (as the published code has it), or the old ones, of which only the first transposed
        convolution loses inputs.
    generator : torch.Generator
        For ``"anew"``.

    Raises
    ------
    ConfigurationError
        The start is unknown, or no channel is left.
    """
    if decoder not in get_args(DecoderStart):
        raise ConfigurationError(f"A decoder cannot start {decoder!r}. {nearest(decoder, get_args(DecoderStart))}")
    kept = (~gone).nonzero().flatten()
    if not len(kept):
        raise ConfigurationError("A latent map needs at least one channel, and all are to be left out.")
    state = {name: value.detach() for name, value in network.state_dict().items()}
    for name in ("encoder.conv3.weight", "encoder.conv3.bias", "decoder.deconv1.weight"):
        state[name] = state[name][kept]
    state["prototypes"] = state["prototypes"][:, kept]
    pruned = AudioPrototypeNetwork.of_state(state, n_frames=network.n_frames)
    if decoder == "anew":
        _start_anew(pruned.decoder, generator)
    return pruned.to(network.prototypes.device)


def _start_anew(decoder: Decoder, generator: torch.Generator) -> None:
    with torch.no_grad():
        for layer in (decoder.deconv1, decoder.deconv2, decoder.deconv3):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            assert layer.bias is not None
            layer.bias.zero_()


def _check_rule(rule: str) -> None:
    if rule not in get_args(Rule):
        raise ConfigurationError(f"There is no rule of redundancy {rule!r}. {nearest(str(rule), get_args(Rule))}")


# --- by hand


def delete_prototype(prototypes: PrototypeSet, index: int) -> PrototypeSet:
    """Without one prototype; what its class weighs in the classifier goes to the others of the class.

    Parameters
    ----------
    prototypes : PrototypeSet
    index : int
        In [0, M).

    Raises
    ------
    ConfigurationError
        There is no such prototype, or it is the last of its class.
    """
    if not 0 <= index < len(prototypes):
        raise ConfigurationError(f"There is no prototype {index}: they are numbered 0 to {len(prototypes) - 1}.")
    own = prototypes.classes[index]
    if int((prototypes.classes == own).sum()) == 1:
        raise ConfigurationError(
            f"Prototype {index} is the last of class {int(own)}: without it, nothing would speak for the class. Turn a "
            "recording of the class into a prototype first."
        )
    rest = torch.arange(len(prototypes), device=prototypes.classes.device) != index
    edited = prototypes.select(rest.nonzero().flatten())
    return rebalanced(edited, int(own), _column_sums(prototypes, int(own)))


def add_prototype(prototypes: PrototypeSet, latent: Tensor, label: int) -> PrototypeSet:
    """With one prototype more: a recording's latent map.

    Its weight for its own class is the mean of all positive weights, for each other class the mean of all negative
    ones, and for each band the mean of H; then what its class weighs in the classifier is what it was before.

    Parameters
    ----------
    prototypes : PrototypeSet
    latent : Tensor (C, F', T'')
    label : int
        In [0, K).

    Returns
    -------
    PrototypeSet
        The new one is the last.

    Raises
    ------
    ConfigurationError
        The class is unknown, or the map has another size.
    """
    n_classes = prototypes.class_weights.shape[1]
    if not 0 <= label < n_classes:
        raise ConfigurationError(f"There is no class {label}: they are numbered 0 to {n_classes - 1}.")
    if latent.shape != prototypes.latents.shape[1:]:
        raise ConfigurationError(
            f"A prototype has the shape {tuple(prototypes.latents.shape[1:])}, got {tuple(latent.shape)}."
        )
    w, h = prototypes.class_weights, prototypes.frequency_weights
    row = torch.full_like(w[0], _mean_where(w, w < 0))
    row[label] = _mean_where(w, w > 0)
    before = _column_sums(prototypes, label)
    new_class = torch.tensor([label], device=prototypes.classes.device)
    edited = PrototypeSet(
        torch.cat([prototypes.latents, latent[None].to(prototypes.latents)]),
        torch.cat([h, torch.full_like(h[:1], float(h.mean()))]),
        torch.cat([w, row[None]]),
        torch.cat([prototypes.classes, new_class]),
    )
    return rebalanced(edited, label, before) if bool((prototypes.classes == label).any()) else edited


def rebalanced(prototypes: PrototypeSet, label: int, column_sums: Tensor) -> PrototypeSet:
    """The classifier's weights of one class' prototypes, scaled so that their |weights| sum to what is asked for.

    Parameters
    ----------
    prototypes : PrototypeSet
    label : int
    column_sums : Tensor (K,)
        Σ_j |W_jk| over the prototypes of the class; see :func:`class_sums`. A column that sums to zero stays as it is.
    """
    rows = prototypes.classes == label
    now = _column_sums(prototypes, label)
    factors = torch.where(now > 0, column_sums / torch.where(now > 0, now, 1), 1)
    weights = prototypes.class_weights.clone()
    weights[rows] = weights[rows] * factors
    return replace(prototypes, class_weights=weights)


def _column_sums(prototypes: PrototypeSet, label: int) -> Tensor:
    return prototypes.class_weights[prototypes.classes == label].abs().sum(0)


def _mean_where(values: Tensor, chosen: Tensor) -> float:
    return float(values[chosen].mean()) if bool(chosen.any()) else 0.0
