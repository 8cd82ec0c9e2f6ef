"""Whether a rung tells how the trials that reach it will go on.

Successive halving assumes that losses at a rung are in the order of the losses at the end. In the middle of a training
with a high learning rate they need not be, least of all among trials that an earlier rung has already picked: of the
embedded default's recorded curves all at 48 of 144 examples have a rank correlation of 0.91 with the end, those picked at
16 examples one of 0.18.
"""

import numpy as np

from search.rung import Rung

# With this correlation 55 % of the best third at a rung are of the best third later (two normal variables, 600,000
# draws), against 33 % by chance: below it, about every second decision is wrong.
ENOUGH = 0.5
# One-sided 95 % quantile of the normal distribution: how sure it has to be that there is at least as much.
SURE = 1.645
_ALMOST_ONE = 1 - 1e-9  # whose transform is finite


def tells(rung: Rung, later: Rung) -> bool:
    """Whether it is proven that losses at ``rung`` are in the order of those at ``later``, where trials reached both.

    Proven is a rank correlation (Spearman) above `ENOUGH`, beyond chance (Fisher's transformation, whose standard error
    is 1 / sqrt(n - 3); for ranks Fieller, Hartley and Pearson 1957). With fewer than five trials nothing is.
    """
    both = [name for name in later.newest if name in rung.reports]
    if len(both) < 5:
        return False
    from scipy.stats import rankdata  # takes a second to import: not while the first trials wait

    here = np.array([rung.reports[name].loss for name in both])
    there = np.array([later.reports[name].loss for name in both])
    if not np.ptp(here) or not np.ptp(there):
        return False
    correlation = float(np.corrcoef(rankdata(here), rankdata(there))[0, 1])
    surely = np.arctanh(np.clip(correlation, -_ALMOST_ONE, _ALMOST_ONE)) - SURE * np.sqrt(
        1.06 / (len(both) - 3)
    )
    return bool(surely > np.arctanh(ENOUGH))
