"""Gaussian process regression of a few dozen trials: scikit-learn's, with the kernel that suits settings of training."""

import copy
import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Regression:
    """A process through ``values`` (``[n]``) at ``places`` (``[n, d]`` in the unit cube), fitted by maximum likelihood.

    Matern 5/2 with a length scale per dimension, as is usual for hyperparameters (Snoek, Larochelle and Adams 2012,
    "Practical Bayesian optimization of machine learning algorithms"), and noise.
    """

    def __init__(self, places: Array, values: Array) -> None:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

        self._centre, self._scale = float(values.mean()), float(values.std()) or 1.0
        smooth = ConstantKernel(1.0, (0.1, 30.0)) * Matern(np.ones(places.shape[1]), (0.1, 30.0), nu=2.5)
        process = GaussianProcessRegressor(
            smooth + WhiteKernel(0.05, (1e-5, 1.0)), alpha=1e-8, random_state=0
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a length scale at its bound: a dimension that does not matter
            self._process = process.fit(places, (values - self._centre) / self._scale)

    def __call__(self, places: Array) -> Array:
        """The expected values at ``[k, d]``."""
        return self.predict(places)[0]

    def predict(self, places: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of a new measurement, noise included, at ``[k, d]``; each ``[k]``."""
        if not len(places):
            return np.zeros(0), np.zeros(0)
        mean, deviation = self._process.predict(places, return_std=True)
        return mean * self._scale + self._centre, deviation * self._scale

    def believing(self, places: Array) -> Self:
        """The same process as if its mean had been measured at ``places`` (``[m, d]``), too.

        Kriging believer (Ginsbourger, Le Riche and Carraro 2010, "Kriging is well-suited to parallelize optimization").
        """
        from sklearn.base import clone

        if not len(places):
            return self
        old, surer = self._process, copy.copy(self)
        fixed = clone(old).set_params(kernel=old.kernel_, optimizer=None)
        surer._process = fixed.fit(
            np.vstack([old.X_train_, places]), np.concatenate([old.y_train_, old.predict(places)])
        )
        return surer
