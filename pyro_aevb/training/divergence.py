"""A training that diverges and stays finite: its bounds fall far below what they were, and nothing else tells."""

import warnings

from pyro_aevb.errors import DivergenceWarning
from pyro_aevb.training.progress import Gathered

__all__ = ["FAR", "Watch"]

FAR = 10
"""How many times the best number so far, and a nat for each observed number, a report must lie below it."""


class Watch:
    """Looks at reports, and warns once of one that lies far below what was there.

    What was there is the first minibatch's, before any step, or the best report since, in nats per datum. Far below is
    below :math:`b - 10\\,(|b| + D)` for a datum of D numbers: an untrained pair of sensible weights loses about a nat
    for each number, and early training, the noise of minibatches or an annealed KL move a bound by parts of that.

    Arguments:
        dimension: How many numbers a datum has.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.best: float | None = None
        self.told = False

    def look(self, gathered: Gathered, reported: float) -> None:
        """See whether what was reported is still where it should be.

        Arguments:
            gathered: Losses that the report is the mean of.
            reported: The report, nats per datum.

        Warns:
            DivergenceWarning: Once, if it is not.
        """
        before = gathered.values()[0].item() if self.best is None else self.best
        if not self.told and reported < before - FAR * (abs(before) + self.dimension):
            self.told = True
            warnings.warn(
                f"training may diverge though it stays finite: {reported:.3g} nats per datum are reported, after "
                f"{before:.3g} before: take a smaller step size, or clip gradients",
                DivergenceWarning,
                stacklevel=5,  # where the reports are asked for
            )
        self.best = max(before, reported)
