r"""Means and differences of trainings, with what is uncertain because of the data and because of the seeds kept apart.

A number :math:`y_{ri}`, a bound say, is known for each training r of one setting, one of R seeds, and each datum i of
N. It is the sum of what the setting is worth, what the seed adds, what the datum adds, and a remainder:

.. math:: y_{ri} = \mu + s_r + d_i + e_{ri}

The mean over both is an estimate of :math:`\mu`. All three effects are taken to be random: other seeds and other data
of the same kind would have others. So

.. math:: \mathrm{Var}(\bar y) = \frac{\sigma_s^2}{R} + \frac{\sigma_d^2}{N} + \frac{\sigma_e^2}{RN}

of which three variances tell:

.. math::
    V_\text{data} = \frac{\mathrm{var}_i(\bar y_{\cdot i})}{N}, \quad
    V_\text{seeds} = \frac{\mathrm{var}_r(\bar y_{r\cdot})}{R}, \quad
    V_\text{both} = \frac{1}{RN} \frac{\sum_{ri} (y_{ri} - \bar y_{r\cdot} - \bar y_{\cdot i} + \bar y)^2}{(R-1)(N-1)}

The first has the expectation :math:`\sigma_d^2 / N + \sigma_e^2 / RN`, the second
:math:`\sigma_s^2 / R + \sigma_e^2 / RN`, the third :math:`\sigma_e^2 / RN`, which the first two both have. So the
variance of the mean is

.. math:: V = \max(V_\text{data} + V_\text{seeds} - V_\text{both},\ V_\text{data},\ V_\text{seeds})

where the maximum matters only when chance makes the remainder's share look larger than it is. The half width of an
interval is :math:`t\sqrt{V}`, in which t is Cochran and Cox's mean of the quantiles of Student's t for R - 1 and for
N - 1 degrees of freedom,

.. math:: t = \frac{V_\text{seeds}}{V} t_{R-1} + \Big(1 - \frac{V_\text{seeds}}{V}\Big) t_{N-1}

With few seeds it covers a little more often than it promises. (Satterthwaite's degrees of freedom make it narrower, and
with two seeds it covered 88 of 100 times in simulations in place of 95.)

References:
    | Experimental designs, section 4.14 (Cochran & Cox, 1957)
    | A simple sequentially rejective multiple test procedure (Holm, 1979)
    | https://www.jstor.org/stable/4615733
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pyro_aevb.errors import InputError, flag, real

__all__ = [
    "LEAST_TOLD",
    "LEVEL",
    "Difference",
    "Estimate",
    "difference",
    "holm",
    "mean_of_trainings",
    "number",
    "verdict",
]

Values = np.ndarray[Any, Any]
"""Numbers ``(R, N)``: of R seeds and N data."""

LEVEL = 0.05
"""Probability, at most, that any of the differences that are called one is none."""

LEAST_TOLD = 0.0001
"""Smallest p-value that is told as it is: of smaller ones it is said that they are below this."""

COVERAGE = 0.95  # of intervals
LEAST_P = 1e-100  # smaller p-values are told as this one


class Estimate(NamedTuple):
    """A mean over seeds and data, and its standard errors."""

    mean: float
    """The mean"""
    se_data: float
    """Standard error over data, the trainings being as they are; NaN where it is not known"""
    se_seeds: float
    """Standard error over seeds, the data being as they are; NaN with one seed"""
    se: float
    """Standard error over both; NaN with one seed"""
    df_data: float
    """Degrees of freedom of ``se_data``"""
    df_seeds: float
    """Degrees of freedom of ``se_seeds``; NaN with one seed"""

    @property
    def error(self) -> float:
        """The standard error to judge by: over both, or with one seed over data alone."""
        return self.se_data if math.isnan(self.se) else self.se

    def interval(self, coverage: float = COVERAGE) -> tuple[float, float]:
        """Ends of the interval that covers what is estimated with this probability; with one seed over data alone.

        Arguments:
            coverage: The probability, between 0 and 1.
        """
        half = self._quantile(1 - real("coverage", coverage, least=0, most=1)) * self.error
        return self.mean - half, self.mean + half

    def p_value(self) -> float:
        """Probability of a mean as far from zero as this one if there were none; with one seed over data alone."""
        from scipy.optimize import brentq  # a second to import, so only where it is used

        if not self.error > 0:
            return math.nan if math.isnan(self.error) else float(self.mean == 0)
        away = abs(self.mean) / self.error
        if away == 0 or self._quantile(LEAST_P) <= away:
            return 1.0 if away == 0 else LEAST_P
        found = brentq(lambda log_p: self._quantile(math.exp(log_p)) - away, math.log(LEAST_P), 0.0)
        return math.exp(float(found))

    def _quantile(self, p: float) -> float:
        """The standard errors between which chance alone stays with probability 1 - p."""
        from scipy.special import stdtrit

        share = self._share_of_seeds
        parts = (self.df_seeds, share), (self.df_data, 1 - share)
        return -sum(part * float(stdtrit(df, p / 2)) for df, part in parts if part > 0)

    @property
    def _share_of_seeds(self) -> float:
        """Share of the variance over both that the seeds have."""
        if math.isnan(self.se):
            return 0.0
        return min(1.0, self.se_seeds**2 / self.se**2) if self.se > 0 else 1.0


class Difference(NamedTuple):
    """A difference between two settings, the first less the second."""

    estimate: Estimate
    """The mean difference, and its standard errors"""
    paired: bool
    """Whether seeds were paired; where not, those of the two settings count as independent. Data always are."""


class _Shares(NamedTuple):
    """The variances of one table of numbers: over data, over seeds, and the remainder's, which both have."""

    data: float
    seeds: float
    both: float
    trainings: int
    data_count: int


def _shares(values: Values) -> _Shares:
    trainings, count = values.shape
    over_seeds = values.mean(1)  # (R,)
    over_data = values.mean(0)  # (N,)
    data = float(over_data.var(ddof=1)) / count if count > 1 else math.nan
    if trainings < 2:
        return _Shares(data, math.nan, math.nan, trainings, count)
    seeds = float(over_seeds.var(ddof=1)) / trainings
    if count < 2:
        return _Shares(data, seeds, math.nan, trainings, count)
    remainder = values - over_seeds[:, None] - over_data + values.mean()
    both = float((remainder**2).sum()) / ((trainings - 1) * (count - 1)) / values.size
    return _Shares(data, seeds, both, trainings, count)


def _combined(mean: float, data: float, count: int, of_seeds: Sequence[_Shares]) -> Estimate:
    """One estimate from the variance over data, and those over seeds of one table or of two independent ones."""
    seeds = sum(each.seeds for each in of_seeds)
    both = sum(each.both for each in of_seeds)
    if math.isnan(seeds):
        return Estimate(mean, math.sqrt(data), math.nan, math.nan, count - 1, math.nan)
    df = _df_of_sum([(each.seeds, each.trainings - 1) for each in of_seeds])
    # One number a training has no data to vary over.
    whole = seeds if math.isnan(data) else max(data + seeds - both, data, seeds)
    return Estimate(mean, math.sqrt(data), math.sqrt(seeds), math.sqrt(whole), count - 1, df)


def _df_of_sum(parts: Sequence[tuple[float, int]]) -> float:
    r"""Degrees of freedom of a sum of variances, as Welch has them: :math:`(\sum_k V_k)^2 / \sum_k (V_k^2 / \nu_k)`."""
    below = sum(part**2 / df for part, df in parts)
    return sum(part for part, _ in parts) ** 2 / below if below > 0 else float(min(df for _, df in parts))


def mean_of_trainings(values: Values) -> Estimate:
    """Mean over seeds and data, with its standard errors over data, over seeds, and over both.

    Oracle: ``scipy.stats.sem`` over data of the means over seeds, and over seeds of the means over data; for both, the
    known mean of simulated trainings, which 95 of 100 intervals must cover.

    Arguments:
        values: The numbers, ``(R, N)``: of R seeds and N data; ``(R, 1)`` for one number a training.
    """
    shares = _shares(_checked("values", values))
    return _combined(float(values.mean()), shares.data, shares.data_count, [shares])


def difference(first: Values, second: Values, paired: bool) -> Difference:
    r"""The first less the second, datum by datum, with standard errors over data, over seeds, and over both.

    Paired by seed, :math:`y_{ri}` above is the difference of the r-th trainings on datum i. Else, with
    :math:`R` and :math:`R'` seeds that have nothing to do with one another, as in Welch's test,

    .. math:: V_\text{data} = \frac{\mathrm{var}_i(\bar y_{\cdot i} - \bar y'_{\cdot i})}{N}, \qquad
              V_\text{seeds} = \frac{\mathrm{var}_r(\bar y_{r\cdot})}{R} + \frac{\mathrm{var}_r(\bar y'_{r\cdot})}{R'}

    and :math:`V_\text{both}` is likewise the sum of the two settings' own.

    Oracle: ``scipy.stats.ttest_rel`` and ``ttest_ind(equal_var=False)`` where data have no effect of their own, or
    there is one seed each; where both have, simulated trainings as for :func:`mean_of_trainings`.

    Arguments:
        first: Numbers of one setting, ``(R, N)``.
        second: Numbers of the other one, ``(R', N)``, on the same data.
        paired: Whether the seeds are the same ones, in the same order, and are to be paired.

    Raises:
        InputError: If the data are not as many, or seeds to be paired.
    """
    one = _checked("first", first)
    other = _checked("second", second)
    if one.shape[1] != other.shape[1] or (flag("paired", paired) and len(one) != len(other)):
        raise InputError(f"first has the shape {one.shape} and second {other.shape}: give the same data, and seeds")
    if paired:
        return Difference(mean_of_trainings(one - other), True)
    apart = one.mean(0) - other.mean(0)  # (N,)
    count = len(apart)
    data = float(apart.var(ddof=1)) / count if count > 1 else math.nan
    return Difference(_combined(float(apart.mean()), data, count, [_shares(one), _shares(other)]), False)


def _checked(name: str, values: Values) -> Values:
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.size == 0:
        raise InputError(f"{name} must be an array (R, N) of numbers: of R seeds and N data")
    return values.astype(np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number: if one is at most 0.05, all such are real with probability 0.95.

    The smallest is multiplied by their number m, the next by m - 1, and so on, and none is below one before it. NaN
    stays NaN and does not count.

    Arguments:
        p_values: One p-value for each comparison.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    corrected = [math.nan] * len(p_values)
    least = 0.0
    for place, (p, i) in enumerate(order):
        least = max(least, min(1.0, (len(order) - place) * p))
        corrected[i] = least
    return corrected


# ---------------------------------------------------------------- words


def verdict(names: tuple[str, str], found: Difference, p: float, seeds: tuple[int, int], better: bool = True) -> str:
    """What a difference shows, in a sentence without a full stop.

    Arguments:
        names: Names of the two settings.
        found: The difference, the first less the second.
        p: Its p-value, corrected for the number of comparisons.
        seeds: Number of seeds of each.
        better: Whether more is better, as of a bound; else the larger one is only called larger.
    """
    estimate = found.estimate
    more, less = names if estimate.mean >= 0 else names[::-1]
    word = "better" if better else "larger"
    known = not math.isnan(estimate.se)
    size = f"{number(abs(estimate.mean), estimate.error)} ± {number(estimate.error, estimate.error)} nats per datum"
    told = "" if math.isnan(p) else f" (p = {p:.2g})" if p >= LEAST_TOLD else f" (p < {LEAST_TOLD})"
    if p > LEVEL or math.isnan(p):
        shown = f"that {_seeds_in_words(seeds)} can show" if known else "on these data, and seeds are unknown"
        return f"no difference between {names[0]} and {names[1]} {shown}: {size}{told}"
    if known:
        return f"{more} is {word} than {less} by {size}{told}"
    return f"{more} is {word} than {less} by {size}{told} on these data, and seeds are unknown"


def _seeds_in_words(seeds: tuple[int, int]) -> str:
    return f"{seeds[0]} seeds" if seeds[0] == seeds[1] else f"{seeds[0]} and {seeds[1]} seeds"


def number(value: float, error: float = math.nan) -> str:
    """A number with two decimals, or as many as its standard error needs for two digits.

    Arguments:
        value: The number.
        error: Its standard error; by default it is not known.

    >>> number(1.0342, 0.11), number(1.0342, 0.0023), number(float("nan"))
    ('1.03', '1.0342', '')
    """
    if math.isnan(value):
        return ""
    small = 0 < error < 0.01
    return f"{value:,.{min(6, 1 - math.floor(math.log10(error))) if small else 2}f}"
