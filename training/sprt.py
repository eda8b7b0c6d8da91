"""Tests that may be looked at after every single answer and still keep their promises.

A test of fixed size that is peeked at promises nothing: with no difference at all, a z-test looked
at every twenty ratings finds one in every third run. Both tests here hold for all looks together:
a fair bet grows `1/alpha`-fold at some time with probability `alpha` at most (Ville, 1939).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

_GRID = 120


class Standing(StrEnum):
    """What a harm test says so far."""

    HARMFUL = "harmful"
    CLEARED = "cleared"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Rate:
    """What is known of how often something happens: it did `bad` times of `bad + good`.

    Both may be fractions, where a guess counts as so many times (a Beta distribution).
    """

    bad: float
    good: float


@dataclass(frozen=True, slots=True)
class HarmTest:
    """The likelihood ratio of events being bad `more` often than usual, and as often (Wald, 1945).

    What is usual need not be known exactly: both likelihoods are means over what it may be. Where
    nothing has changed, it ever says "harmful" with probability `alpha` at most, and where things
    are worse by `more`, it ever says "cleared" with probability `beta` at most.
    """

    usual: Rate
    more: float
    alpha: float
    beta: float

    def look(self, bad: Sequence[bool], least: Sequence[float] = ()) -> Standing:
        """What the events so far say, in the order in which they came.

        `least` says of each what was usual at its moment at least, where that changes: the more
        usual it was, the less a bad event tells.
        """
        if not bad:
            return Standing.OPEN
        rates, weights = _grid(self.usual)
        usual = np.maximum(rates, np.asarray(least, np.float64)[:, None]) if least else rates
        usual = np.minimum(usual, rates.max())
        worse = np.minimum(usual + self.more, (1 + usual) / 2)
        ratios = _log_likelihood(bad, worse, weights) - _log_likelihood(bad, usual, weights)
        if ratios.max() >= -math.log(self.alpha):
            return Standing.HARMFUL
        return Standing.CLEARED if ratios[-1] <= math.log(self.beta) else Standing.OPEN


def duel_evidence(won: int, lost: int) -> float:
    """How many times better "it wins more than half" explains the duels than "it wins half".

    The uniform mixture over all rates above a half (Robbins, 1970), in whole numbers: as large as
    `1/alpha` at some time with probability `alpha` at most, where the two are equally good.
    """
    duels = won + lost
    below, term = 0, 1
    for k in range(won + 1):
        below += term
        term = term * (duels + 1 - k) // (k + 1)
    return below / ((duels + 1) * math.comb(duels, won))


def wilson(part: int, whole: int, z: float) -> tuple[float, float]:
    """The bounds of a share (Wilson, 1927), `z` standard deviations wide; 0 to 1 for nothing."""
    if not whole:
        return 0.0, 1.0
    share, squared = part / whole, z * z
    centre = share + squared / (2 * whole)
    spread = z * math.sqrt(share * (1 - share) / whole + squared / (4 * whole * whole))
    return (centre - spread) / (1 + squared / whole), (centre + spread) / (1 + squared / whole)


def _grid(rate: Rate) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rates from 0 to 1, close together near 0, and the logarithm of each one's probability."""
    place = (np.arange(_GRID) + 0.5) / _GRID
    rates = place**2
    density = (rate.bad - 1) * np.log(rates) + (rate.good - 1) * np.log1p(-rates) + np.log(place)
    return rates, density - np.logaddexp.reduce(density)


def _log_likelihood(
    bad: Sequence[bool], rates: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of the first event, the first two and so on, a mean over the rates.

    The rates are the same for all events, or a row of them for each.
    """
    seen = np.asarray(bad, dtype=np.bool_)[:, None]
    each = np.where(seen, np.log(rates), np.log1p(-rates))
    found = weights + np.cumsum(each, axis=0)
    return np.asarray(np.logaddexp.reduce(found, axis=1))
