"""Curves between the recorded ones: Gaussian-process trend plus the nearest recorded curve's deviation from it.

A nearest row alone punishes every sampler that learns: in 5 dimensions 160 rows leave one or two to a cell, so that a
sampler that refines a learning rate is answered with one and the same row over and over (a tree-structured Parzen
estimator met 24 to 32 different rows of a made-up table in 230 trials, random search 110). Here a near config has a
near curve.

At a recorded config the answer is the recording itself, noise included. Elsewhere it is the nearest row's curve moved by
how much the trend differs between the two places. The trend is kriging with a Matern 5/2 kernel, one length scale per
dimension and the noise's share found by maximum likelihood (Rasmussen and Williams 2006, chapters 2.2 and 5.4.1); memory
and seconds have a trend of their own over target set, batch size and rank, the only settings that they depend on.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESTARTS = 2  # of the likelihood's optimisation, which may find a poor local optimum


class Trend:
    """A Gaussian process through ``features`` (n x d) and ``targets`` (n x m), standardised by column."""

    def __init__(self, features: Array, targets: Array) -> None:
        import warnings

        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self._mean = targets.mean(axis=0)
        spread = targets.std(axis=0)
        self._spread = np.where(spread > 0, spread, 1.0)
        standard = (targets - self._mean) / self._spread
        # Features are in units of their range: a scale of 30 ranges is no influence, of a twentieth pure noise.
        smooth = Matern(np.ones(features.shape[1]), (0.05, 30.0), nu=2.5)
        kernel = ConstantKernel(1.0, (0.1, 100.0)) * smooth + WhiteKernel(0.1, (1e-6, 1.0))
        process = GaussianProcessRegressor(kernel, n_restarts_optimizer=RESTARTS, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a length scale at its bound is welcome: no influence
            process.fit(features, standard)
        self._kernel = process.kernel_.k1
        self._features, self._weights = features, process.alpha_.reshape(len(features), -1)
        inverse = np.linalg.inv(process.kernel_(features))
        left_out = self._weights / np.diag(inverse)[:, None]
        self.leave_one_out_error: Array = np.sqrt((left_out**2).mean(axis=0)) * self._spread

    def __call__(self, features: Array) -> Array:
        """The trend (m values) at one place (d values)."""
        near = self._kernel(features[None], self._features)
        values: Array = (near @ self._weights)[0] * self._spread + self._mean
        return values


class Interpolation:
    """Trends of losses (nats), and of the logarithms of memory and seconds, over the rows that completed."""

    def __init__(
        self, places: Array, target_sets: Sequence[str], losses: Array, memory: Array, seconds: Array
    ) -> None:
        self._low = places.min(axis=0)
        ranges = np.ptp(places, axis=0)
        self._range = np.where(ranges > 0, ranges, 1.0)
        self._sets = sorted(set(target_sets))
        features = [self._features(place, name) for place, name in zip(places, target_sets, strict=True)]
        self._losses = Trend(np.array(features), losses)
        costs = np.log(np.stack([memory, np.maximum(seconds, 1e-3)], axis=1))
        self._costs = Trend(np.array(features)[:, 2:], costs)
        self.loss_error = float(self._losses.leave_one_out_error[-1])

    def _features(self, place: Array, target_set: str) -> Array:
        """Learning rate and alpha / rank first, then what memory depends on: rank, batch size, target set."""
        one_hot = [float(name == target_set) for name in self._sets]
        return np.array([*((place - self._low) / self._range), *one_hot])

    def move(self, start: tuple[Array, str], end: tuple[Array, str]) -> tuple[Array, float, float]:
        """From one ``(place, target set)`` to another: difference of every rung's loss, factors of memory and seconds."""
        first, second = self._features(*start), self._features(*end)
        losses = self._losses(second) - self._losses(first)
        memory, seconds = np.exp(self._costs(second[2:]) - self._costs(first[2:]))
        return losses, float(memory), float(seconds)

    def knows(self, target_set: Any) -> bool:
        """Whether the target set was recorded."""
        return target_set in self._sets
