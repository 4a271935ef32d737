"""What earlier versions saved opens, evaluates to the numbers that they told, and goes on.

``fixtures/`` was written by version 0.1.0 of 26 November 2026: four runs of the command line, one for each engine and
one of grey pixels with an annealed estimator, and the states of three pairs that are no parts of this package.
"""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.estimators import SGVB
from pyro_aevb.runs.folder import Folder
from tests.pairs import binary, hand_written_pair, paper_pair
from tests.training.test_any_pair import Vae

FIXTURES = Path(__file__).parent.parent / "fixtures"
ADAM = partial(torch.optim.Adam, lr=1e-2)


@pytest.fixture(params=["eager", "captured", "svi", "grey"])
def saved(request, cli):
    """A copy of a saved run, in the current folder."""
    shutil.copytree(FIXTURES / request.param, request.param)
    return request.param


def test_a_saved_run_evaluates_to_the_numbers_it_told(saved, cli, caplog):
    code, printed, errors = cli("evaluate", saved, "--num_samples=50", "--device=cpu", "--json")
    assert code == 0, errors
    assert [r.getMessage().count("carries no digest") for r in caplog.records] == [1]
    now, told = json.loads(printed), json.loads((FIXTURES / saved / "evaluated.json").read_text())
    earlier = {"bound": "bound", "log_px_given_z": "log_likelihood", "kl": "kl", "log_px": "evidence"}
    for name, then in earlier.items():
        assert now[name]["mean"] == pytest.approx(told[then]["mean"], abs=1e-3), name
    assert now["active_units"] == told["active_units"]


def test_a_saved_run_goes_on(saved, cli, caplog):
    code, _, errors = cli("train", f"--resume={saved}", "--samples=4500")
    assert code == 0, errors
    assert sum("carries no digest" in r.getMessage() for r in caplog.records) == 1
    assert Folder(saved).load()["samples_seen"] == 4500
    told, now = [m["bound"] for m in Folder(saved).metrics() if "bound" in m][-2:]
    assert now > told - 2  # it goes on from there, not from the beginning


def test_states_of_hand_written_pairs_go_on():
    states = torch.load(FIXTURES / "states.pt", weights_only=True)
    vae, data = Vae(), binary(60, dtype=torch.float32)
    trainer = aevb.Trainer(vae.model, vae.guide, data, SGVB(), ADAM, 20, 0, "eager", device="cpu")
    trainer.load_state_dict(states["methods"])
    assert torch.equal(vae.encode[1].running_mean, states["methods"]["modules"]["model.self"]["encode.1.running_mean"])
    list(trainer.run(60))
    assert trainer.samples_seen == 660

    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    x = x @ torch.randn(2, 4, generator=torch.Generator().manual_seed(1)) + 0.1
    trainer = aevb.Trainer(*hand_written_pair(200), x, SGVB(), ADAM, 50, engine="svi", device="cpu")
    trainer.load_state_dict(states["param"])
    assert torch.equal(trainer.parameters["gain"], states["param"]["parameters"]["gain"])
    list(trainer.run(50))

    model, _ = paper_pair(size=60, dtype=torch.float32)
    em = aevb.MonteCarloEM(model, data, batch_size=20, device="cpu", engine="eager")
    em.load_state_dict(states["em"])
    assert torch.equal(em.chains, states["em"]["chains"])
    list(em.run(60))
