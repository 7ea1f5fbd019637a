"""How alike the layers of networks are: debiased linear CKA, and correlation of dissimilarity matrices (RSA).

Both compare which images a layer takes for alike, so that layers of different widths can be compared, and no unit needs
a partner. The usual (biased) CKA of n images is d / (n + d) for independent noise of d values, that is nearly 1 for
feature maps; the debiased one is 0 (Song et al. 2012; Murphy et al. 2024). And since an untrained network keeps some of
the similarity of images, too, it belongs into every comparison as a baseline.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.batches import read_batches
from ..data.pack.reading import Images
from ..evaluation.inference import BATCH_SIZE
from ..files import atomic_write
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..specs.names import not_one_of
from .features import FeatureSettings, activations

HALVES = 100
"""Random halves of the images by which intervals are estimated."""
UNTRAINED = "untrained"
COPIED_VALUES = 2**14
"""Values of a layer that are in float64 at a time, per image."""


@dataclass(frozen=True)
class Member:
    """A network that is compared, of a group of networks that differ by their seeds."""

    name: str
    group: str
    bundle: ModelBundle
    images: Images

    def untrained(self, seed: int) -> Member:
        """The same network with new initial weights."""
        old = self.bundle.network
        new = AlexNet(old.architecture, old.num_classes, old.in_channels, old.input_size, seed)
        network = new.to(next(old.parameters()).device).eval()
        bundle = ModelBundle(network, self.bundle.preprocessing, self.bundle.classes)
        return Member(f"{UNTRAINED} {self.name}", f"{UNTRAINED} {self.group}", bundle, self.images)


@dataclass(frozen=True)
class Similarity:
    """How alike a layer is in two groups of networks, or within one: the mean over pairs of networks."""

    layer: str
    groups: tuple[str, str]
    pairs: int
    cka: float
    cka_error: float
    """Half of the 95% confidence interval over images."""
    rsa: float
    rsa_error: float

    @property
    def networks(self) -> str:
        """The groups in words: "small", "small / cifar-18", "small / untrained"."""
        one, other = self.groups
        return one if one == other else f"{one} / {UNTRAINED if other.startswith(UNTRAINED) else other}"


@dataclass(frozen=True)
class Comparison:
    """Networks compared layer by layer."""

    members: tuple[Member, ...]
    layers: tuple[str, ...]
    similarities: tuple[Similarity, ...]
    dissimilarities: dict[str, np.ndarray]
    """By layer: 1 − correlation of each pair of images, i < j in rows, (networks, pairs of images)."""

    def rows(self) -> list[dict[str, str]]:
        """A row of a table for each layer and pair of groups."""
        return [
            {
                "layer": each.layer,
                "networks": each.networks,
                "pairs": f"{each.pairs:,}",
                "CKA": f"{each.cka:.2f} ± {each.cka_error:.2f}",
                "RSA": f"{each.rsa:.2f} ± {each.rsa_error:.2f}",
            }
            for each in self.similarities
        ]

    def save(self, path: Path) -> None:
        """Write the dissimilarity matrices (.npz): rsatoolbox.rdm.RDMs(numpy.load(path)["relu7"])."""
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **self.dissimilarities, networks=np.array([member.name for member in self.members]))


def compare(
    members: Sequence[Member], layers: Sequence[str] | None = None, progress: Callable | None = None
) -> Comparison:
    """Compare networks on the same images, layer by layer, and each with its untrained self.

    Args:
        members: networks; those of the same group are repetitions of each other.
        layers: layers that all networks have; all activation functions and the scores if None.
        progress: wraps an iterable of counts; called with it and its total.

    Raises:
        ValueError: there are fewer than two networks or than eight images, or networks have no such layer in common.
    """
    if len(members) < 2:
        raise ValueError(f"networks must be at least two, got {len(members)}")
    if len(members[0].images) < 8:
        raise ValueError(f"images must be at least 8, got {len(members[0].images)}")
    names = [[member.images.packed.names[index] for index in member.images.indices] for member in members]
    if differing := [member.name for member, theirs in zip(members, names, strict=True) if theirs != names[0]]:
        raise ValueError(f"networks must have the same images in this split, but {differing[0]} has others")
    common = [name for name, _ in members[0].bundle.network.named_children()]
    for member in members[1:]:
        theirs = {name for name, _ in member.bundle.network.named_children()}
        common = [name for name in common if name in theirs]
    layers = tuple(layers or [name for name in common if name.startswith("relu")] + common[-1:])
    if missing := [layer for layer in layers if layer not in common]:
        raise ValueError(not_one_of("a layer of all networks", missing[0], common))
    members = (*members, *(member.untrained(1000 + index) for index, member in enumerate(members)))
    kernels: dict[str, list] = {layer: [] for layer in layers}
    steps = [*itertools.product(layers, members)]
    counts = progress([1] * len(steps), len(steps)) if progress else [1] * len(steps)
    for (layer, member), _ in zip(steps, counts, strict=True):
        kernels[layer].append(_kernel(member, layer))
    upper = np.triu_indices(len(members[0].images), 1)
    similarities = tuple(similarity for layer in layers for similarity in _similarities(layer, members, kernels[layer]))
    matrices = {layer: np.stack([dissimilarity(*each)[upper] for each in kernels[layer]]) for layer in layers}
    return Comparison(tuple(members), layers, similarities, matrices)


def debiased_cka(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741 - as in the paper
    """Linear CKA of two kernel matrices, (images, images), without the bias of few images.

        HSIC(K, L) = [tr(K̃ L̃) + (1ᵀ K̃ 1)(1ᵀ L̃ 1) / ((n − 1)(n − 2)) − 2 / (n − 2) · 1ᵀ K̃ L̃ 1] / (n (n − 3))

    K̃ is K with zeros on its diagonal. CKA is HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)); 0 where a layer is constant.
    """
    k, l = (_without_diagonal(each) for each in (k, l))  # noqa: E741
    product = _hsic(k, k) * _hsic(l, l)
    return _hsic(k, l) / np.sqrt(product) if product > 0 else 0.0


def dissimilarity(kernel: np.ndarray, means: np.ndarray, width: int) -> np.ndarray:
    """1 − the correlation of the features of each two images, (images, images), from their kernel matrix.

    Args:
        means: mean of each image's features, (images,).
        width: how many features.
    """
    covariance = kernel - width * np.outer(means, means)
    deviations = np.sqrt(np.diag(covariance).clip(1e-30))
    return 1 - covariance / np.outer(deviations, deviations)


def rsa(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of the upper triangles of two dissimilarity matrices; 0 where one is constant."""
    upper = np.triu_indices(len(a), 1)
    a, b = a[upper] - a[upper].mean(), b[upper] - b[upper].mean()
    product = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / product) if product > 0 else 0.0


def _kernel(member: Member, layer: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Inner products of the features of all pairs of images, the mean of each image's features, and their number."""
    settings, device = FeatureSettings((layer,)), next(member.bundle.network.parameters()).device
    batches = read_batches(member.images.packed, member.images.indices, BATCH_SIZE, device)
    features = torch.cat([activations(member.bundle, batch.images, settings)[layer].flatten(1) for batch in batches])
    kernel = sum(part.double() @ part.double().T for part in features.split(COPIED_VALUES, 1))
    return kernel.cpu().numpy(), features.double().mean(1).cpu().numpy(), features.shape[1]


def _similarities(layer: str, members: Sequence[Member], kernels: list) -> list[Similarity]:
    matrices = [dissimilarity(*each) for each in kernels]
    count = len(matrices[0])
    draws = [np.random.default_rng(half).permutation(count)[: count // 2] for half in range(HALVES)]
    values: dict[tuple[str, str], list[np.ndarray]] = {}
    for (i, one), (j, other) in itertools.combinations(enumerate(members), 2):
        is_baseline = other.group.startswith(UNTRAINED)
        if one.group.startswith(UNTRAINED) or (is_baseline and other.group != f"{UNTRAINED} {one.group}"):
            continue  # untrained networks are compared with trained ones of their own kind
        subsets = [np.arange(count), *draws]
        pair = [
            (
                debiased_cka(kernels[i][0][np.ix_(rows, rows)], kernels[j][0][np.ix_(rows, rows)]),
                rsa(matrices[i][np.ix_(rows, rows)], matrices[j][np.ix_(rows, rows)]),
            )
            for rows in subsets
        ]
        values.setdefault((one.group, other.group), []).append(np.array(pair))  # (1 + HALVES, 2)
    results = []
    for groups, pairs in values.items():
        mean = np.mean(pairs, 0)
        # What halves of the images give scatters as much as what other images would (delete-half jackknife).
        errors = 1.96 * np.sqrt(np.square(mean[1:] - mean[0]).mean(0))
        results.append(Similarity(layer, groups, len(pairs), mean[0, 0], errors[0], mean[0, 1], errors[1]))
    return results


def _without_diagonal(kernel: np.ndarray) -> np.ndarray:
    """Centered, which changes no HSIC but keeps its terms small, and with zeros on the diagonal."""
    kernel = kernel - kernel.mean(0) - kernel.mean(1, keepdims=True) + kernel.mean()
    np.fill_diagonal(kernel, 0)
    return kernel


def _hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    n, of_k, of_l = len(k), k.sum(0), l.sum(0)
    terms = (k * l).sum() + of_k.sum() * of_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (of_k @ of_l)
    return float(terms / (n * (n - 3)))
