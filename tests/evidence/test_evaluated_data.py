"""What is evaluated is looked at first, by every evaluator; and data come in the forms that people have."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb import diagnostics, evidence
from pyro_aevb.data import DynamicBinarization
from pyro_aevb.estimators import SGVB
from tests.everything import REFUSED, evaluators
from tests.pairs import binary, paper_pair, plate


def pair_of(likelihood):
    """A latent and data of any likelihood, ``likelihood(z)``; the guide is the prior."""

    def model(x, *more):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", likelihood(z, *more), obs=x)

    def guide(x, *more):
        with plate(x):
            shift = pyro.param("shift", torch.tensor(0.0))
            pyro.sample("z", dist.Normal(shift + torch.zeros(len(x), 1), 1.0).to_event(1))

    return model, guide


def bernoulli(z, **options):
    return dist.Bernoulli(logits=z.expand(*z.shape[:-1], 3), **options).to_event(1)


WRONG = {
    "outside": (bernoulli, torch.tensor([[0.0, 1.0, 1.0], [7.0, 0.0, 1.0]]), "row 1 lies outside"),
    "negative": (bernoulli, torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, -3.0]]), "row 1 lies outside"),
    "nan": (bernoulli, torch.tensor([[0.0, 1.0, 1.0], [1.0, math.nan, 1.0]]), "NaN or infinite values, in row 1"),
    "infinite": (
        lambda z: dist.Normal(z.expand(*z.shape[:-1], 3), 1.0).to_event(1),
        torch.tensor([[0.0, 1.0, 1.0], [1.0, math.inf, 1.0]]),
        "NaN or infinite values, in row 1",
    ),
    "masked nan": (
        lambda z: dist.Normal(z.expand(*z.shape[:-1], 3), 1.0).mask(torch.tensor([True, False, True])).to_event(1),
        torch.tensor([[0.0, 1.0, 1.0], [1.0, math.nan, 1.0]]),
        "NaN or infinite values, in row 1",
    ),
    "grey": (bernoulli, torch.tensor([[0.0, 1.0, 1.0], [0.3, 0.5, 1.0]]), "binarize grey values"),
    "not whole": (
        lambda z: dist.Poisson(z.exp().expand(*z.shape[:-1], 3)).to_event(1),
        torch.tensor([[0.0, 1.0, 1.0], [0.3, 0.5, 1.0]]),
        "row 1 lies outside",
    ),
}
LOOKS_AT_THE_GUIDE_ALONE = ("posterior_means", "activity")


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.filterwarnings("ignore:evaluated at initial values")
def test_every_evaluator_refuses_data_that_have_no_density(kind):
    """AIS ran with validation off: 7 and -3 under a Bernoulli told -6.67."""
    likelihood, x, message = WRONG[kind]
    model, guide = pair_of(likelihood)
    for name, value in evaluators(model, guide, (x,)).items():
        assert name in LOOKS_AT_THE_GUIDE_ALONE or value is REFUSED, name
    for rows in (x, torch.cat([x[:1].expand(300, -1), x[1:]])):  # in a later block too, by its own number
        with pytest.raises(aevb.InputError, match=message.replace("row 1", f"row {len(rows) - 1}")):
            evidence.annealed_importance_sampling(model, guide, rows, steps=3)
    with pytest.raises(aevb.InputError, match=message):
        aevb.Trainer(model, guide, x, SGVB(), batch_size=1, device="cpu")
    with pytest.raises(aevb.InputError, match=message):
        aevb.hmc.sample_posterior(model, (x,), 3)


@pytest.mark.filterwarnings("ignore:evaluated at initial values")
def test_a_check_that_the_user_switched_off_stays_off():
    """A pair's own Bernoulli on grey pixels: the cross-entropy is meant."""
    model, guide = pair_of(lambda z: bernoulli(z, validate_args=False))
    grey = torch.rand(20, 3)
    list(aevb.Trainer(model, guide, grey, SGVB(), batch_size=10, device="cpu").run(20))
    assert evidence.importance_sampling(model, guide, grey, 20).isfinite().all()


@pytest.mark.filterwarnings("ignore:evaluated at initial values")
def test_nan_is_a_value_to_what_takes_it():
    """NanMaskedNormal's density is that of what is there, and so is that of a class that extends it."""

    class Missing(dist.NanMaskedNormal):
        """Under another name."""

    model, guide = pair_of(lambda z: dist.NanMaskedNormal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1))
    extended, _ = pair_of(lambda z: Missing(z.expand(*z.shape[:-1], 2), 1.0).to_event(1))
    full, _ = pair_of(lambda z: dist.Normal(z, 1.0).to_event(1))
    x = torch.tensor([[0.3, math.nan], [math.nan, -1.0]])
    seen = torch.tensor([[0.3], [-1.0]])
    with aevb.seeded(0):
        found = evidence.importance_sampling(model, guide, x, 500)
        torch.testing.assert_close(found, evidence.importance_sampling(full, guide, seen, 500))
        torch.testing.assert_close(found, evidence.importance_sampling(extended, guide, x, 500))
    list(aevb.Trainer(model, guide, x, SGVB(), batch_size=1, device="cpu").run(4))


def test_each_datum_is_checked_against_its_own_support():
    """Binomial(n_i): the first minibatch's bounds were held against all."""

    def model(k, n):
        with plate(k):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("k", dist.Binomial(n, logits=z), obs=k)

    def guide(k, n):
        with plate(k):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)) + 0 * k, 1.0))

    n = torch.arange(1.0, 41.0)
    k = n - 1
    for batch_size in (20, 13, 40):
        list(aevb.Trainer(model, guide, (k, n), batch_size=batch_size, device="cpu").run(40))
        wrong = k.clone()
        wrong[17] = 19.0
        with pytest.raises(aevb.InputError, match="row 17 lies outside"):
            aevb.Trainer(model, guide, (wrong, n), batch_size=batch_size, device="cpu")
    with pytest.raises(aevb.InputError, match="row 17 lies outside"):
        evidence.bound(model, guide, (wrong, n))


def test_a_support_made_of_the_minibatch_is_each_minibatchs_own():
    """Multinomial of the largest total in the batch."""

    def model(x):
        most = int(x.sum(-1).max())
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1).to_event(1))
            pyro.sample("x", dist.Multinomial(most, logits=z, validate_args=None), obs=x)

    def guide(x):
        with plate(x):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(3)) + 0 * x, 1.0).to_event(1))

    x = torch.tensor([1.0, 2.0, 3.0]).repeat(40, 1)
    x[5] = torch.tensor([4.0, 4.0, 4.0])
    for batch_size in (1, 13, 40):
        list(aevb.Trainer(model, guide, x, batch_size=batch_size, device="cpu").run(40))
    x[7, 0] = -1.0
    with pytest.raises(aevb.InputError, match="row 7 lies outside"):
        aevb.Trainer(model, guide, x, batch_size=13, device="cpu")


def test_a_plate_without_a_size_takes_all():
    def model(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(x / 2 + pyro.param("m", torch.tensor(0.0)), 0.5**0.5))

    x = torch.randn(60)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    with pyro.get_param_store().scope():
        pyro.param("m", torch.tensor(0.0))
        torch.testing.assert_close(evidence.importance_sampling(model, guide, x, 10), exact)
    trainer = aevb.Trainer(model, guide, x, batch_size=20, device="cpu", optimizer=lambda p: torch.optim.SGD(p, lr=0))
    (report,) = trainer.run(60)
    assert report.bound == pytest.approx(exact.mean().item(), rel=1e-4)


# ---------------------------------------------------------------- forms of data

FORMS = {
    "DynamicBinarization": (lambda x: DynamicBinarization(x), "one fixed draw"),
    "sparse": (lambda x: x.to_sparse(), "to_dense"),
    "list": (lambda x: list(x), "a list"),
    "object array": (lambda x: np.array([None]), "an array of object"),
    "number": (lambda x: torch.tensor(1.0), "a single number"),
    "empty": (lambda x: x[:0], "empty"),
    "DataSet": (lambda x: aevb.data.load("digits"), "give its .train to train on"),
}


@pytest.mark.parametrize("form", FORMS)
def test_other_forms_are_refused_with_advice_that_fits(form):
    make, message = FORMS[form]
    model, guide = paper_pair()
    for evaluate in (
        lambda x: evidence.bound(model, guide, x),
        lambda x: evidence.importance_sampling(model, guide, x, 3),
        lambda x: evidence.annealed_importance_sampling(model, guide, x, steps=3),
        lambda x: evidence.posterior_means(guide, x),
        lambda x: diagnostics.latent_kl(model, guide, x),
        lambda x: diagnostics.decoder_use(model, guide, x),
    ):
        with pytest.raises(aevb.InputError, match=message):
            evaluate(make(binary()))


def test_arrays_and_shorter_numbers_are_taken():
    model, guide = paper_pair(dtype=torch.float32)
    x = binary(20, dtype=torch.float32)
    expected = evidence.importance_sampling(model, guide, x, 10)
    for form in (x.numpy(), x.double().numpy(), x.bfloat16(), x.half(), x.numpy().astype(">f8"), x.numpy()[::1]):
        assert torch.equal(evidence.importance_sampling(model, guide, form, 10), expected)
    trainers = [aevb.Trainer(*paper_pair(), form, batch_size=10, device="cpu") for form in (x.double(), x.numpy())]
    assert trainers[0].batches.parts[0].dtype == trainers[1].batches.parts[0].dtype == torch.float64


def test_longer_numbers_than_the_weights_are_brought_to_their_precision_and_a_training_says_so(caplog):
    model, guide = paper_pair(dtype=torch.float32)
    x = binary(20)
    assert x.dtype == torch.float64
    assert torch.equal(evidence.bound(model, guide, x).bound, evidence.bound(model, guide, x.float()).bound)
    with caplog.at_level("INFO"):
        trainer = aevb.Trainer(model, guide, x, batch_size=10, device="cpu")
    assert trainer.batches.parts[0].dtype == torch.float32
    assert caplog.text.count("data of float64 are brought to the weights' float32") == 1


@pytest.mark.parametrize("form", ["alone", "tuple", "dictionary"])
def test_whole_numbers_are_brought_to_the_weights_once_and_a_condition_stays(form, caplog):
    """Bit for bit what the same numbers as floats give; the condition's whole numbers stay categories."""
    condition = torch.arange(20) % 3
    x = binary(20).to(torch.uint8)
    given = {
        "alone": lambda x: x,
        "tuple": lambda x: (x, condition),
        "dictionary": lambda x: {"x": x, "condition": condition},
    }[form]
    width = 0 if form == "alone" else 3
    trained = []
    for data in (x, x.float()):
        with aevb.seeded(0):
            likelihood = aevb.likelihoods.Bernoulli(2 + width, x.shape[1], hidden=3)
            model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), likelihood, 20, condition=width)
            guide = aevb.guides.DiagonalNormal(x.shape[1] + width, 2, hidden=3)
            guide = aevb.RecognitionModel(guide, 20, condition=width)
        with caplog.at_level("INFO"):
            trainer = aevb.Trainer(model, guide, given(data), batch_size=10, engine="eager", device="cpu")
        assert trainer.batches.parts[0].dtype == torch.float32
        assert width == 0 or trainer.batches.parts[1].dtype == torch.int64
        list(trainer.run(40))
        trained.append({**model.state_dict(), **{f"q.{k}": v for k, v in guide.state_dict().items()}})
    assert caplog.text.count("data of uint8 are brought to the weights' float32") == 1
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_binarised_data_in_a_tuple_are_binarised():
    """They were trained on grey, silently where the likelihood takes it."""
    seen = []

    def model(x, y):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            seen.append(x)
            pyro.sample("x", dist.ContinuousBernoulli(logits=z + 0 * x).to_event(1), obs=x)

    def guide(x, y):
        with plate(x):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(1)) + 0 * x[:, :1], 1.0).to_event(1))

    grey = torch.full((40, 3), 0.3)
    trainer = aevb.Trainer(model, guide, (DynamicBinarization(grey), torch.zeros(40)), batch_size=20, device="cpu")
    list(trainer.run(4000))
    values = torch.cat(seen)
    assert set(values.unique().tolist()) == {0.0, 1.0}
    assert values.mean().item() == pytest.approx(0.3, abs=0.02)
    both = aevb.Trainer(
        lambda x, y: model(x, y),
        guide,
        (DynamicBinarization(grey), DynamicBinarization(grey)),
        batch_size=20,
        device="cpu",
    )
    first, second = both.batches[0]
    assert not torch.equal(first, second)  # each with noise of its own


def test_grey_and_dynamically_binarised_data_are_told_apart():
    grey = torch.full((60, 6), 0.4, dtype=torch.float64)
    assert aevb.data.fingerprint(grey) != aevb.data.fingerprint(DynamicBinarization(grey))
    dynamic = aevb.Trainer(*paper_pair(), DynamicBinarization(grey), batch_size=20, device="cpu")
    plain = aevb.Trainer(*paper_pair(relaxed=True), grey, batch_size=20, device="cpu")
    with pytest.raises(aevb.InputError, match="another data"):
        dynamic.load_state_dict(plain.state_dict())


# ---------------------------------------------------------------- errors of the numbers


@pytest.mark.slow
def test_one_sample_tells_no_error_and_two_tell_it_without_bias():
    """At one it was 0; at two too small by a factor of 1.4."""
    model, guide = pair_of(lambda z: dist.Normal(z, 3.0).to_event(1))
    with pyro.get_param_store().scope():
        pyro.param("shift", torch.tensor(0.0))
        x = torch.linspace(-2, 2, 1000).unsqueeze(-1)
        one = evidence.importance_weights(model, guide, x, 1)
        assert one.standard_error.isnan().all()
        for count in (2, 5, 50):
            found = [evidence.importance_weights(model, guide, x, count, seed=s) for s in range(12)]
            true = torch.stack([f.log_likelihood for f in found]).var(0).mean().sqrt()
            told = torch.stack([f.standard_error for f in found]).square().mean().sqrt()
            assert told.item() == pytest.approx(true.item(), rel=0.1), count
        single = evidence.annealed_importance_sampling(model, guide, x[:5], steps=3, chains=1)
        assert single.standard_error.isnan().all()


def test_dependent_latents_that_ignore_the_data_are_not_active():
    """The mean of the second depends on a draw of the first, which is not activity."""

    def guide(x):
        with plate(x):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            pyro.sample("b", dist.Normal(2 * a, 1.0))

    def moving(x):
        with plate(x):
            a = pyro.sample("a", dist.Normal(x, 1.0))
            pyro.sample("b", dist.Normal(2 * a, 1.0))

    x = torch.linspace(-1, 1, 200)
    assert evidence.active_units(guide, x) == 0
    assert evidence.active_units(moving, x) == 2
    means = evidence.posterior_means(moving, x)
    torch.testing.assert_close(means[:, 0], x)
    torch.testing.assert_close(means[:, 1], 2 * x, atol=0.8, rtol=0)
    assert (means[:, 1] - 2 * x).mean().abs() < 0.1


def test_nan_in_what_no_site_observes_is_refused_where_it_comes_out():
    """A covariate: AIS told -inf, importance sampling NaN."""

    def model(x, c):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(z + c, 1, validate_args=False).to_event(1), obs=x)

    def guide(x, c):
        with plate(x):
            pyro.sample("z", dist.Normal(x / 2 + 0 * c, 1.0, validate_args=False).to_event(1))

    x = torch.zeros(5, 1)
    c = torch.tensor([0.0, 1.0, math.nan, 0.0, 0.0]).unsqueeze(-1)
    with pyro.validation_enabled(False):
        for name, value in evaluators(model, guide, (x, c)).items():
            assert value is REFUSED, name
        with pytest.raises(aevb.InputError, match="number 2 of its 5"):
            evidence.importance_sampling(model, guide, (x, c), 5)


def test_data_of_unequal_lengths_are_refused():
    with pytest.raises(aevb.InputError, match=r"different lengths: \[5, 4\]"):
        evidence.importance_sampling(lambda x, y: None, lambda x, y: None, (torch.zeros(5), torch.zeros(4)), 3)
