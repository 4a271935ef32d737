"""Where others fell, by the numbers of the list that this project keeps; each fault, then what must be true here."""

import math
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

import pyro_aevb as aevb
from pyro_aevb import evidence, traces
from pyro_aevb.data import DynamicBinarization
from pyro_aevb.estimators import SGVB, SGVBAnalyticKL
from pyro_aevb.guides import Guide
from pyro_aevb.seeds import derive
from tests.pairs import LinearGaussian, binary, paper_pair
from tests.trainings import assert_equal, make, weights

PACKAGE = Path(aevb.__file__).parent


def test_01_the_bound_is_per_datum_summed_over_dimensions():
    """Peers average over pixels but sum over latents. Duplicating the batch changes nothing per datum; each term is a
    sum over its dimensions."""
    model, guide = paper_pair()
    x = binary(10)
    torch.manual_seed(0)
    once = traces.log_densities(model, guide, (x,))
    torch.manual_seed(0)
    noise = torch.randn(10, 2, dtype=torch.float64)
    q = guide.guide(x)
    z = q.mean + q.stddev * noise
    torch.testing.assert_close(once.log_likelihood[0], model.likelihood(z).base_dist.log_prob(x).sum(-1))
    torch.testing.assert_close(once.log_prior[0], dist.Normal(0.0, 1.0).log_prob(z).sum(-1))
    torch.testing.assert_close(once.log_guide[0], q.base_dist.log_prob(z).sum(-1))
    single, double = (evidence.bound(model, guide, d, num_samples=4000).bound.mean() for d in (x, torch.cat([x, x])))
    assert double.item() == pytest.approx(single.item(), abs=0.05)  # standard error of each about 0.004


def test_01_a_size_scales_every_term_alike():
    for estimator in (SGVB(), SGVBAnalyticKL()):
        torch.manual_seed(0)
        plain = estimator.loss(*paper_pair(size=None), binary())
        torch.manual_seed(0)
        assert estimator.loss(*paper_pair(size=110), binary()) == pytest.approx(10 * plain, rel=1e-12)


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_02_two_trainings_in_one_process_are_each_as_alone(engine):
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
def test_02_two_hand_written_pairs_under_one_name(engine):
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


def test_02_plain_svi_trains_a_second_model():
    """Also in the user's own store, without ``Trainer``."""
    for _ in range(2):
        model, guide = paper_pair()
        before = [p.clone() for p in (*model.parameters(), *guide.parameters())]
        SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(binary())
        after = [*model.parameters(), *guide.parameters()]
        assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_02_a_copied_model_trains_on_its_own():
    import copy

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
def test_02_the_users_store_and_random_state_are_untouched(engine):
    mine = pyro.param("mine", torch.tensor(3.0))
    random_state = torch.get_rng_state()
    list(make(engine=engine).run(300))
    assert list(pyro.get_param_store()) == ["mine"]
    assert pyro.param("mine") is mine or torch.equal(pyro.param("mine"), mine)
    assert torch.equal(random_state, torch.get_rng_state())


def test_02_the_package_never_clears_a_store():
    for path in PACKAGE.rglob("*.py"):
        assert "clear_param_store" not in path.read_text(), path


def test_04_evaluators_count_right_and_have_the_right_sign():
    pair = LinearGaussian(shift=0.2, widen=1.1)
    exact = pair.log_evidence
    for chunk_size in (1000, 300):
        estimate = evidence.importance_sampling(pair.model, pair.guide, pair.x, 1000, chunk_size=chunk_size)
        assert (estimate - exact).abs().max() < 0.15  # s.e. at most 0.03


def test_06_grey_pixels_need_an_explicit_word():
    grey = torch.full((60, 6), 0.3, dtype=torch.float64)
    with pytest.raises(aevb.InputError, match="relaxed=True"):
        make(data=grey)
    with aevb.seeded(0):
        model, guide = paper_pair(size=60, relaxed=True)
    list(aevb.Trainer(model, guide, grey, batch_size=20, device="cpu").run(60))


def test_06_the_mean_of_many_dynamic_draws_is_the_grey_image():
    grey = torch.rand(5, 50)
    rows = torch.arange(5)
    draws = torch.stack([DynamicBinarization(grey).draw(rows, derive(0, "binarize", i)) for i in range(4000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    error = (draws.mean(0) - grey) / (grey * (1 - grey) / 4000).sqrt()
    assert error.abs().max() < 4.5  # 250 z-scores: fails by chance with p < 2e-3, and the seed is fixed
    assert 0.85 < error.std() < 1.15


def test_07_logits_not_probabilities():
    """Through probabilities a log density stops at -15.94."""
    likelihood = aevb.likelihoods.Bernoulli(1, 1, hidden=[])
    torch.nn.init.constant_(likelihood.network[0].weight, 200.0)
    torch.nn.init.zeros_(likelihood.network[0].bias)
    log_prob = likelihood(torch.tensor([[1.0]])).log_prob(torch.tensor([[0.0]]))
    assert log_prob.item() == pytest.approx(-200)


class Mixture(Guide):
    """A guide without a registered KL to the prior."""

    def __init__(self, data_dim, latent_dim):
        super().__init__(data_dim, latent_dim)
        self.loc = torch.nn.Parameter(torch.zeros(latent_dim, dtype=torch.float64))

    def forward(self, x):
        return dist.StudentT(5.0, self.loc, 1.0).expand((len(x), self.latent_dim)).to_event(1)


def test_08_estimator_b_never_falls_back_to_a():
    model, _ = paper_pair()
    guide = aevb.RecognitionModel(Mixture(6, 2))
    assert math.isfinite(TraceMeanField_ELBO().loss(model, guide, binary()))  # Pyro's falls back, silently
    with pytest.raises(aevb.InputError, match=r"no closed form.*'z'.*StudentT.*estimator A"):
        SGVBAnalyticKL().loss(model, guide, binary())
    SGVB().loss(model, guide, binary())


def test_10_the_first_step_is_validated_whatever_the_setting():
    """With validation off, a value of shape (20,) against a distribution of shape (20, 1) broadcasts to (20, 20)."""
    weight = torch.nn.Parameter(torch.zeros(1))

    def model(x):
        pyro.param("weight", weight)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal((weight * z).unsqueeze(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pyro.validation_enabled(False), pytest.raises(aevb.InputError, match="first run of model and guide failed"):
        aevb.Trainer(model, guide, torch.zeros(20), batch_size=20, device="cpu")
    with pyro.validation_enabled(False):
        make()
        assert not pyro.infer.is_validation_enabled()


def test_11_evaluation_ignores_training_switches_and_batches():
    """The mean over data, whatever the batches; ``eval()`` and no gradients: see test_evidence.py for each alone."""
    model, guide = paper_pair()
    x = binary(250)
    whole = evidence.bound(model, guide, x).bound
    assert not whole.requires_grad
    model.train()
    assert torch.equal(whole[:100], evidence.bound(model, guide, x[:100]).bound)


def test_11_samples_come_from_the_models_own_prior(tmp_path, monkeypatch):
    from pyro_aevb import runs
    from pyro_aevb.cli import pictures, train
    from pyro_aevb.priors import Prior

    class Far(Prior):
        def forward(self):
            return dist.Normal(torch.full((self.latent_dim,), 5.0), 0.01).to_event(1)

    monkeypatch.chdir(tmp_path)
    train.train(["--samples=100", "--hidden=[]", "--latent_dim=1", "--out=run"])
    loaded = runs.load_run("run", device="cpu")
    loaded.model.prior = Far(1)
    torch.nn.init.ones_(loaded.model.likelihood.network[0].weight)
    torch.nn.init.zeros_(loaded.model.likelihood.network[0].bias)
    samples = pictures.draw_samples(loaded, 10, seed=0)
    torch.testing.assert_close(samples, torch.full_like(samples, torch.sigmoid(torch.tensor(5.0))), atol=1e-3, rtol=0)


def test_12_streams_are_separate():
    """Other noise, same order; another order only with another seed."""
    one, two = make(estimator=SGVB()), make(estimator=SGVB(num_particles=3))
    for trainer in (one, two):
        list(trainer.run(100))
    assert torch.equal(one.batches[one.step][0], two.batches[two.step][0])
    assert not torch.equal(make().batches[0][0], make(seed=1).batches[0][0])
