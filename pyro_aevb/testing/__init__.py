"""The contracts of parts as functions, so that a part from outside the package gets the package's own tests.

A prior, a likelihood, a guide or an estimator of yours is checked against every rule of its contract by one line in a
test, of whatever test framework::

    from pyro_aevb import testing

    testing.check_prior(MyPrior)
    testing.check_likelihood(MyLikelihood)
    testing.check_guide(partial(MyGuide, hidden=7))
    testing.check_estimator(MyEstimator)

What is given is a class, or anything else that makes one when it is called as the class would be, such as a
``functools.partial`` with options. A check returns nothing, or raises ``AssertionError`` with one sentence: which rule
is broken, what was found, what was expected, what to do. It takes a second or less for a part and a few seconds for
an estimator, and says the same each time. The caller's random state, Pyro's parameter store and torch's settings are
afterwards as they were, even where the part changed them.

The rules are listed at the end of ``parts.py`` and of ``estimators.py``, in the order in which they are checked.
"""

from pyro_aevb.testing.estimators import check_estimator
from pyro_aevb.testing.parts import check_guide, check_likelihood, check_prior

__all__ = ["check_estimator", "check_guide", "check_likelihood", "check_prior"]
