"""Lost work and crashes, by the numbers of the list that this project keeps: see test_pitfalls_numbers.py."""

import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.estimators import SGVB
from tests.pairs import binary, paper_pair
from tests.trainings import make

PACKAGE = Path(aevb.__file__).parent


def test_13_a_wild_encoder_gives_a_finite_bound():
    """exp(100) = inf is accepted as a scale by torch; log-scales here are bounded."""
    model, guide = paper_pair("Gaussian")
    for network in (model.likelihood.network, guide.guide.network):
        network[-1].bias.data.fill_(1e4)
    assert math.isfinite(SGVB().loss(model, guide, binary()))
    for network in (model.likelihood.network, guide.guide.network):
        network[-1].bias.data.fill_(-1e4)
    assert math.isfinite(SGVB().loss(model, guide, binary()))


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_13_a_non_finite_loss_names_the_step(engine):
    trainer = make(engine=engine, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.0))
    list(trainer.run(100))
    with torch.no_grad():
        trainer.guide.guide.network[0].bias[0] = float("nan")
    with pytest.raises(aevb.NonFiniteLossError, match=r"at step 6; \d parameters are no longer finite"):
        list(trainer.run(100))


def test_14_a_variance_cannot_fall_to_zero_and_the_floor_is_named():
    likelihood = aevb.likelihoods.Gaussian(2, 6, hidden=4, min_scale=0.05)
    z = torch.zeros(3, 2)
    assert likelihood.warning(z) is None
    likelihood.network[-1].bias.data[6:9] = -100.0
    torch.testing.assert_close(likelihood(z).stddev[:, :3], torch.full((3, 3), 0.05))
    assert likelihood.warning(z) == "50.0% of the pixels' scales sit on the floor of 0.05, which bounds log p(x|z)"


def test_15_no_file_needs_pickle():
    """See test_checkpoints.py and test_training.py for kills, resumption and crafted files."""
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        assert not re.search(r"weights_only\s*=\s*False|import pickle|pickle\.load|allow_pickle\s*=\s*True", text), path
        assert text.count("torch.load(") == len(re.findall(r"torch\.load\([^)]*weights_only=True", text)), path


def test_16_versions_are_ranges():
    """``assert pyro.__version__ == ...`` breaks on every release."""
    for path in PACKAGE.rglob("*.py"):
        assert "pyro.__version__" not in path.read_text(), path
    text = (PACKAGE.parent / "pyproject.toml").read_text().split("dependencies = [")[1].split("]\n")[0]
    requirements = re.findall(r'^    "([^"]+)",$', text, re.MULTILINE)
    assert len(requirements) >= 10
    assert all(">=" in r and "==" not in r for r in requirements), requirements


def test_17_importing_seeds_nothing_sets_nothing_and_downloads_nothing():
    """See test_data.py for mirrors, checksums and messages."""
    check = (
        "import socket, torch, random, numpy as np\n"
        "def refuse(*a, **k): raise AssertionError('network on import')\n"
        "socket.socket.connect = refuse\n"
        "import pyro\n"
        "states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()\n"
        "settings = lambda: (torch.get_default_dtype(), torch.get_num_threads(),\n"
        "    torch.get_float32_matmul_precision(), torch.is_grad_enabled(),\n"
        "    pyro.infer.is_validation_enabled(), len(pyro.get_param_store()))\n"
        "before = settings()\n"
        "import pyro_aevb, pyro_aevb.cli\n"
        "assert settings() == before\n"
        "assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()\n"
        "assert (states[2] == np.random.get_state()[1]).all()\n"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
