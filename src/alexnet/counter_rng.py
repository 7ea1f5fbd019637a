"""A counter-based random number generator: every draw depends only on (seed, epoch, image index, purpose).

A draw is a hash of these four (the finalizer of SplitMix64, Steele et al. 2014), so it does not depend on the number of
workers or threads, on the batch size, or on whether the run was interrupted.
"""

import numpy as np


def uniform(seed: int, epoch: int, indices: np.ndarray, purpose: str, count: int = 1) -> np.ndarray:
    """Uniform draws from [0, 1), (len(indices), count), float64.

    Args:
        indices: images, or groups of images, from 0.
        purpose: what the draws are for, at most 8 bytes; draws for different purposes are independent.
        count: draws per index.
    """
    state = _state(seed, epoch, indices, purpose)[:, None]
    bits = _mix(state + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)) * 2.0**-53


def normal(seed: int, epoch: int, indices: np.ndarray, purpose: str, count: int = 1) -> np.ndarray:
    """Standard normal draws, (len(indices), count), float64, by the Box-Muller transform."""
    radius, angle = np.split(uniform(seed, epoch, indices, purpose, 2 * count), 2, axis=1)
    return np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * np.pi * angle)


def beta(seed: int, epoch: int, index: int, purpose: str, alpha: float) -> float:
    """A draw from Beta(alpha, alpha), in [0, 1]."""
    (key,) = _state(seed, epoch, np.array([index]), purpose)
    return float(np.random.Generator(np.random.Philox(key=key)).beta(alpha, alpha))


def permutation(seed: int, epoch: int, length: int) -> np.ndarray:
    """A random order of 0 … length − 1."""
    key = np.array([seed & 0xFFFF_FFFF_FFFF_FFFF, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(length)


_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)


def _state(seed: int, epoch: int, indices: np.ndarray, purpose: str) -> np.ndarray:
    state = _mix(np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF) ^ np.uint64(int.from_bytes(purpose.encode()[:8], "little")))
    state = _mix(state + np.uint64(epoch))
    return _mix(state + np.asarray(indices, dtype=np.uint64))


def _mix(z: np.ndarray | np.uint64) -> np.ndarray:
    z = np.atleast_1d(z) + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return z ^ (z >> np.uint64(31))
