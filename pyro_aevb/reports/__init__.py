"""Many runs side by side: :func:`pyro_aevb.compare_runs` measures them on the same data, and tells what differs.

Runs that differ by their seed alone are one setting. Standard errors over data and over seeds are kept apart, and
differences are paired datum by datum. :func:`write_report` makes a page of it that opens from disk.
"""

from pyro_aevb.reports.comparison import Comparison, compare_runs
from pyro_aevb.reports.page import write_report
from pyro_aevb.reports.statistics import Difference, Estimate, difference, holm, mean_of_trainings

__all__ = [
    "Comparison",
    "Difference",
    "Estimate",
    "compare_runs",
    "difference",
    "holm",
    "mean_of_trainings",
    "write_report",
]
