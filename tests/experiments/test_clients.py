"""Programs that others wrote go through everything, or are refused by name: the table of ``experiments/clients.py``."""

import importlib
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest

from pyro_aevb.engines.captured import RecordedGradients

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
sys.path.insert(0, str(EXPERIMENTS))
clients = importlib.import_module("clients")
PROGRAMS = importlib.import_module("shared.programs").PROGRAMS
sys.path.remove(str(EXPERIMENTS))

POINTS = {"gmm", "regression, AutoDelta", "regression, AutoLaplaceApproximation"}
"""Programs whose guide is a point, so that nothing has a density."""
NO_PATH = {"ss_vae_M2, unlabelled", "scanVI", "air"}
"""Programs with a latent that no path leads to."""
OF_ALL_DATA = ("lda", "sparse gamma", "regression")
"""Programs with a latent that is one for all data, so that no datum has a q(z|x)."""
NO_CLOSED_FORM = {"zuko flow as the prior", "zuko flow as the guide"}
"""Whose KL is known by draws alone, which the analytic estimator does not pass for its own."""
LEFT_OUT = {"gmm", "cevae"}
"""Whose guide none of ours takes: it leaves a latent to be summed out, or observes one without a path."""


def cell(program, column, *arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clients.outcome(PROGRAMS[program], partial(column, *arguments, **options))


@pytest.mark.parametrize("name", PROGRAMS)
def test_estimators_equal_pyros(name):
    ours = clients.estimators
    for estimator, theirs in (
        (ours.SGVB, clients.PyrosTraceELBO),
        (clients.Downstream, clients.TraceGraph_ELBO),
        (ours.SGVBAnalyticKL, clients.TraceMeanField_ELBO),
    ):
        found = cell(name, clients.same, ours=estimator, theirs=theirs)
        analytic = estimator is ours.SGVBAnalyticKL
        if name in LEFT_OUT or (analytic and name in NO_CLOSED_FORM):
            assert found.startswith("refused: ")
        else:
            assert found.startswith(("equal", "yes; Pyro's raises"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_multi_sample_bounds_and_evidence_take_what_mathematics_allows(name):
    pathwise = {"IWAE", "StickingTheLanding", "DoublyReparameterized", "Renyi"}
    for estimator in pathwise | {"VIMCO"}:
        found = cell(name, clients.finite, name=estimator)
        refused = name in LEFT_OUT | POINTS or (name in NO_PATH and estimator in pathwise)
        assert found.startswith("refused: ") if refused else found == "yes", estimator
    for estimator in ("ScoreFunction", "WakeSleep"):
        assert cell(name, clients.finite, name=estimator).startswith(("yes", "refused: "))
    for column in (clients.importance, clients.bound):
        found = cell(name, column)
        assert found.startswith("refused: ") == (name in LEFT_OUT | POINTS), found
    shared = name in LEFT_OUT or name.startswith(OF_ALL_DATA)
    assert cell(name, clients.diagnose).startswith("refused: " if shared else "yes")


@pytest.mark.parametrize("name", PROGRAMS)
def test_training_is_recorded_where_nothing_is_read_from_the_data(name, monkeypatch):
    """Not compiled, which takes the compiler's time and would be the same graph."""
    made = RecordedGradients.__init__

    def uncompiled(self, *arguments, **options):
        made(self, *arguments, **{**options, "compiled": False})

    monkeypatch.setattr(RecordedGradients, "__init__", uncompiled)
    eager = cell(name, clients.trains, engine="eager")
    captured = cell(name, clients.trains, engine="captured")
    if name in LEFT_OUT:
        assert eager.startswith("refused: ")
    elif name in {"prodLDA", "lda"}:  # whose multinomial's total is a number of the data
        assert captured.startswith("eagerly: the step cannot be recorded: in ")
        assert "programs.py" in captured
    else:
        assert captured == eager
        assert captured.startswith("yes")
