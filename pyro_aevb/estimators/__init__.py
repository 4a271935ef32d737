r"""The objectives, side by side, each a :class:`pyro.infer.ELBO`: usable in :class:`pyro.infer.SVI` and in ``Trainer``.

Sign and scale, stated once: an estimator returns a scalar **loss**
:math:`-\frac NM \sum_{i=1}^M \mathcal{L}(x_i)` in nats, to be minimised; N/M is the scale of the pair's plate.

A new estimator is one class: subclass :class:`~pyro_aevb.estimators.base.Estimator` and write
``differentiable_loss``, or :class:`~pyro_aevb.estimators.base.MultiSample` and write ``loss_of_weights``, where each
datum's and particle's log-weight is at hand. It has no ``.item()``, no branch on data, and no Python number that should
be a tensor, so that it can be recorded as a graph. One whose bound is not the evidence lower bound also says which it
is, by ``reference``, so that its bias can be told.
"""

from pyro_aevb.estimators.base import Estimator as Estimator
from pyro_aevb.estimators.base import MultiSample as MultiSample
from pyro_aevb.estimators.base import Reference as Reference
from pyro_aevb.estimators.importance import IWAE, DoublyReparameterized, Renyi, StickingTheLanding
from pyro_aevb.estimators.pathwise import SGVB, SGVBAnalyticKL
from pyro_aevb.estimators.score import VIMCO, ScoreFunction
from pyro_aevb.estimators.wake_sleep import WakeSleep

__all__ = [
    "IWAE",
    "SGVB",
    "VIMCO",
    "DoublyReparameterized",
    "Renyi",
    "SGVBAnalyticKL",
    "ScoreFunction",
    "StickingTheLanding",
    "WakeSleep",
]
