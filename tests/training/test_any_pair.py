"""Trainer takes any Pyro pair."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.estimators import SGVB
from tests.pairs import binary, hand_written_pair, paper_pair
from tests.trainings import assert_equal, make, weights

# ---------------------------------------------------------------- any pair


class Vae(torch.nn.Module):
    """Model and guide as methods, as in Pyro's own tutorial, with training switches and a state."""

    def __init__(self):
        super().__init__()
        self.encode = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4))
        self.decode = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 6))

    def model(self, x):
        pyro.module("decode", self.decode)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encode", self.encode)
        mean, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


@pytest.mark.parametrize("engine", ["eager", "svi", "captured"])
@pytest.mark.parametrize("closure", [False, True])
def test_methods_and_closures_keep_their_modules_state(engine, closure, tmp_path):
    """Such a pair is evaluated in ``eval()``, and resumes with its running means."""

    def trained(seed=0):
        with aevb.seeded(seed):
            vae = Vae()
        pair = (lambda x: vae.model(x), lambda x: vae.guide(x)) if closure else (vae.model, vae.guide)
        trainer = aevb.Trainer(
            *pair,
            binary(60, dtype=torch.float32),
            SGVB(),
            partial(torch.optim.Adam, lr=1e-2),
            20,
            0,
            engine,
            device="cpu",
        )
        if engine == "captured":
            trainer.engine.gradients.compiled = False
        return vae, trainer

    whole, trainer = trained()
    list(trainer.run(600))
    _, first = trained()
    list(first.run(300))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, trainer = trained(seed=1)
    trainer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(trainer.run(300))
    assert_equal(whole.state_dict(), second.state_dict())

    before = {name: value.clone() for name, value in second.state_dict().items()}
    bounds = [evidence.bound(trainer.model, trainer.guide, binary(30, dtype=torch.float32)).bound for _ in range(2)]
    assert torch.equal(*bounds)
    assert_equal(before, second.state_dict())
    assert second.training


def test_an_exception_in_evaluation_leaves_nothing_changed():
    vae = Vae()
    state = torch.get_rng_state()

    def broken(x):
        vae.guide(x)
        raise KeyError("mine")

    try:
        evidence.bound(vae.model, broken, binary(10, dtype=torch.float32))
    except aevb.InputError as error:
        kept = error.__cause__  # with its frames alive
    assert torch.equal(state, torch.get_rng_state())
    assert vae.training
    assert kept.args == ("mine",)


def test_evaluation_leaves_the_users_store_alone_and_warns_of_initial_values():
    model, guide = paper_pair()
    evidence.bound(model, guide, binary())
    assert len(pyro.get_param_store()) == 0
    with pytest.warns(UserWarning, match="initial values.*param_store"):
        evidence.bound(*hand_written_pair(20), torch.zeros(20, 4))
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize("sizes", [(60, None), (None, 60), (60, 90)])
def test_model_and_guide_of_different_sizes_are_refused(sizes):
    """Else one term of the bound alone would be rescaled."""
    model, guide = paper_pair(size=sizes[0])
    guide.size = sizes[1]
    with pytest.raises(aevb.InputError, match=r"'z' is scaled by .* give both the same size"):
        aevb.Trainer(model, guide, binary(60), batch_size=20, device="cpu")


def test_a_parameter_that_is_not_contiguous_trains():
    """Pyro's store keeps a copy of it, so that plain SVI would step the copy."""
    model, guide = paper_pair(size=60)
    layer = guide.guide.network[0]
    layer.weight = torch.nn.Parameter(layer.weight.detach().T.contiguous().T)
    before = layer.weight.detach().clone()
    list(aevb.Trainer(model, guide, binary(60), batch_size=20, device="cpu", engine="eager").run(60))
    assert not torch.equal(before, layer.weight)


def test_an_optimizer_that_lacks_parameters_is_refused():
    model, guide = paper_pair(size=60)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(aevb.InputError, match="lacks 4 of the pair's 8 parameters"):
        aevb.Trainer(model, guide, binary(60), optimizer=optimizer, batch_size=20, device="cpu")


@pytest.mark.parametrize("name", ["RenyiELBO", "TraceGraph_ELBO"])
def test_estimators_that_only_svi_can_call(name):
    """Pyro's estimators without ``differentiable_loss`` train with its own engine, and say so with another."""
    from pyro import infer

    estimator = partial(getattr(infer, name), num_particles=2)
    list(make(estimator=estimator(), engine="svi", batch_size=20).run(60))
    with pytest.raises(aevb.InputError, match="engine='svi'"):
        make(estimator=estimator(), engine="eager")


@pytest.mark.parametrize("name", ["RenyiELBO", "TraceGraph_ELBO", "Trace_ELBO"])
def test_the_first_step_of_svi_has_its_own_gradients_alone(name):
    from pyro import infer

    def estimator():
        return getattr(infer, name)(num_particles=2)

    optimizer = partial(torch.optim.SGD, lr=1e-4)
    trainer = make(estimator=estimator(), engine="svi", optimizer=optimizer, batch_size=60)
    other = make(estimator=estimator(), engine="svi", optimizer=optimizer, batch_size=60)
    svi = infer.SVI(other.model, other.guide, pyro.optim.SGD({"lr": 1e-4}), estimator())
    for parameter in other.parameters.values():
        parameter.grad = None
    with other.running():
        svi.step(*other.batches[0])
    list(trainer.run(60))
    assert_equal(weights(trainer), weights(other))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_a_hand_written_pair_with_pyro_param_and_two_latents(engine, tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator) @ torch.randn(2, 4, generator=generator) + 0.1

    def trained(samples):
        trainer = aevb.Trainer(
            *hand_written_pair(200), x, SGVB(), partial(torch.optim.Adam, lr=1e-2), 50, engine=engine, device="cpu"
        )
        return trainer, list(trainer.run(samples))

    trainer, progress = trained(40_000)
    assert progress[-1].bound > progress[0].bound + 0.5
    assert set(trainer.parameters) == {"weight", "sigma", "gain", "scale"}
    assert len(pyro.get_param_store()) == 0  # the user's store is untouched
    with trainer.param_store():
        assert len(pyro.get_param_store()) == 4
        bound = evidence.bound(trainer.model, trainer.guide, x, num_samples=20).bound.mean().item()
        log_px = evidence.importance_sampling(trainer.model, trainer.guide, x, 500).mean().item()
    assert bound == pytest.approx(progress[-1].bound, abs=0.2)
    assert log_px > bound - 0.01

    first, _ = trained(20_000)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second, _ = trained(1)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.run(20_000))
    for name, parameter in trainer.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), name


def test_a_pyro_module_trains():
    from pyro.nn import PyroModule, PyroParam
    from torch.distributions import constraints

    class Model(PyroModule):
        def __init__(self):
            super().__init__()
            self.decode = PyroModule[torch.nn.Linear](1, 3)
            self.sigma = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(self.decode(z.unsqueeze(-1)), self.sigma).to_event(1), obs=x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.encode = PyroModule[torch.nn.Linear](3, 2)

        def forward(self, x):
            mean, log_scale = self.encode(x).unbind(-1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(mean, log_scale.exp()))

    x = torch.randn(100, 1) * torch.ones(3) + 0.3 * torch.randn(100, 3)
    model, guide = Model(), Guide()
    trainer = aevb.Trainer(model, guide, x, optimizer=partial(torch.optim.Adam, lr=1e-2), batch_size=50, device="cpu")
    before = model.sigma.item()
    bounds = [p.bound for p in trainer.run(50_000)]
    assert bounds[-1] > bounds[0] + 0.5
    assert model.sigma.item() < before - 0.2
    assert len(trainer.parameters) == 5


def test_a_pair_with_two_arguments():

    def model(x, y):
        slope = pyro.param("slope", torch.tensor(0.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(slope * y + 0.1 * z, 1.0), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param("shift", torch.tensor(0.0)) + 0 * x, 1.0))

    y = torch.randn(100)
    trainer = aevb.Trainer(model, guide, (2 * y, y), optimizer=partial(torch.optim.Adam, lr=0.05), device="cpu")
    list(trainer.run(20_000))
    assert trainer.parameters["slope"].item() == pytest.approx(2, abs=0.1)


def test_an_optimizer_instance_is_taken_as_it_is():
    model, guide = paper_pair(size=60)
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=1e-2)
    trainer = aevb.Trainer(model, guide, binary(60), optimizer=optimizer, batch_size=20, device="cpu")
    assert trainer.engine.optimizer is optimizer
    list(trainer.run(100))


def test_a_trainer_steps_shared_weights_once():
    net = torch.nn.Sequential(torch.nn.Linear(2, 3)).double()
    first = net[0]

    def model(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z) + 0 * first.bias, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.zeros(2, dtype=torch.float64)), 1.0).to_event(1))

    trainer = aevb.Trainer(
        model, guide, torch.zeros(10, 3, dtype=torch.float64), batch_size=10, engine="eager", device="cpu"
    )
    assert len(trainer.parameters) == len({id(p) for p in trainer.parameters.values()}) == 3
