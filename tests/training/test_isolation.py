"""Two models in one process train exactly as each would alone, and what is the user's own stays as it was."""

import copy
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

import pyro_aevb as aevb
from pyro_aevb.estimators import SGVB
from tests.pairs import binary, paper_pair
from tests.trainings import assert_equal, make, weights

PACKAGE = Path(aevb.__file__).parent


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_two_trainings_in_one_process_are_each_as_alone(engine):
    """A second ``pyro.module`` of the same name silently does not train; here each is bit-equal to itself alone."""
    alone = []
    for seed in (1, 2):
        trainer = make(engine=engine, weights=seed)
        list(trainer.run(600))
        alone.append(weights(trainer))
    together = [make(engine=engine, weights=seed) for seed in (1, 2)]
    for _ in zip(*(trainer.run(600) for trainer in together), strict=True):
        pass
    for expected, trainer in zip(alone, together, strict=True):
        assert_equal(expected, weights(trainer))


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_two_hand_written_pairs_under_one_name(engine):
    """The same, for pairs that use one ``pyro.module`` name and one ``pyro.param`` name."""

    def pair(seed):
        with aevb.seeded(seed):
            net = torch.nn.Linear(1, 3)

        def model(x):
            pyro.module("net", net)
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(net(z.unsqueeze(-1)), 1.0).to_event(1), obs=x)

        def guide(x):
            loc = pyro.param("loc", torch.tensor(float(seed)))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(loc, 1.0))

        return net, aevb.Trainer(
            model, guide, torch.ones(40, 3), SGVB(), partial(torch.optim.SGD, lr=1e-4), 20, engine=engine, device="cpu"
        )

    alone = []
    for seed in (1, 2):
        net, trainer = pair(seed)
        list(trainer.run(200))
        alone.append([p.clone() for p in trainer.parameters.values()])
    pairs = [pair(seed) for seed in (1, 2)]
    starts = [net.weight.clone() for net, _ in pairs]
    for _, trainer in pairs * 2:
        list(trainer.run(100))
    for start, expected, (net, trainer) in zip(starts, alone, pairs, strict=True):
        assert not torch.equal(start, net.weight)
        assert all(torch.equal(a, b) for a, b in zip(expected, trainer.parameters.values(), strict=True))


def test_plain_svi_trains_a_second_model():
    """Also in the user's own store, without ``Trainer``."""
    for _ in range(2):
        model, guide = paper_pair()
        before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
        SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(binary())
        after = [*model.parameters(), *guide.parameters()]
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_copied_model_trains_on_its_own():
    model, guide = paper_pair()
    optimizer = pyro.optim.Adam({"lr": 1e-2})
    SVI(model, guide, optimizer, Trace_ELBO()).step(binary())
    twin, twin_guide = copy.deepcopy((model, guide))
    frozen = [p.clone() for p in model.parameters()]
    before = [p.clone() for p in twin.parameters()]
    SVI(twin, twin_guide, optimizer, Trace_ELBO()).step(binary())
    assert all(torch.equal(a, b) for a, b in zip(frozen, model.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(before, twin.parameters(), strict=True))


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_the_users_store_and_random_state_are_untouched(engine):
    mine = pyro.param("mine", torch.tensor(3.0))
    random_state = torch.get_rng_state()
    list(make(engine=engine).run(300))
    assert list(pyro.get_param_store()) == ["mine"]
    assert pyro.param("mine") is mine or torch.equal(pyro.param("mine"), mine)
    assert torch.equal(random_state, torch.get_rng_state())


def test_the_package_never_clears_a_store():
    for path in PACKAGE.rglob("*.py"):
        assert "clear_param_store" not in path.read_text(), path
