"""Each member of an ensemble trains as it would alone; whatever cannot is refused."""

from functools import partial

import pyro
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_aevb as aevb
from pyro_aevb import optimizers
from pyro_aevb.engines.batched import noise_as_inputs
from pyro_aevb.engines.stacking import ELEMENTWISE, Stacked, joined_optimizers
from pyro_aevb.estimators import SGVB, SGVBAnalyticKL, WakeSleep
from pyro_aevb.training.ensemble import Ensemble
from tests.pairs import binary, hand_written_pair, paper_pair
from tests.trainings import make, weights

ADAM = partial(torch.optim.Adam, lr=0.01)


def member(seed, **options):
    """One of several trainings, with its own weights, order and noise."""
    return make(seed, weights=seed, engine="eager", **{"batch_size": 20, "estimator": SGVB(), **options})


def replayed(trainers):
    """An ensemble without the compiler's seconds."""
    return Ensemble(trainers, compiled=False)


def assert_close(ours, theirs, tolerance=1e-10):
    """All tensors and numbers of two states, however nested."""
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key in theirs.keys() - {"digest"}:  # equal only where all bits are
            assert_close(ours[key], theirs[key], tolerance)
    elif isinstance(theirs, (list, tuple)):
        for one, other in zip(ours, theirs, strict=True):
            assert_close(one, other, tolerance)
    else:
        assert ours == (pytest.approx(theirs, rel=1e-6) if isinstance(theirs, float) else theirs)


def trains_as_alone(make_member, samples=400, ensemble=replayed, tolerance=1e-10, count=3):
    """Reports and states of all members, against each trained by itself; the ensemble's trainers."""
    together, alone = ([make_member(seed) for seed in range(count)] for _ in range(2))
    reports = list(ensemble(together).run(samples))
    for i, (ours, theirs) in enumerate(zip(together, alone, strict=True)):
        expected = list(theirs.run(samples))
        assert [r[i].samples_seen for r in reports] == [r.samples_seen for r in expected]
        assert [r[i].bound for r in reports] == pytest.approx([r.bound for r in expected], rel=max(tolerance, 1e-12))
        assert_close(ours.state_dict(), theirs.state_dict(), tolerance)
    return together


# ---------------------------------------------------------------- the same numbers


def adam_of(seed):
    """Step sizes of which two neighbours share one."""
    return partial(torch.optim.Adam, lr=(0.01, 0.01, 0.03)[seed])


def test_members_train_as_alone():
    """20 steps, with a short last batch in each epoch."""
    trainers = trains_as_alone(lambda seed: member(seed, batch_size=25, optimizer=adam_of(seed)))
    assert trainers[0].step == 20
    assert not torch.equal(*(trainer.noise.states["cpu"] for trainer in trainers[:2]))


def test_wake_sleep_whose_dreams_are_drawn_from_the_model():
    trains_as_alone(lambda seed: member(seed, estimator=WakeSleep(), optimizer=adam_of(seed)))


def test_particles_and_tensors_of_the_estimator():
    def one(seed):
        return member(seed, estimator=SGVBAnalyticKL(3, beta=0.5 + seed), optimizer=adam_of(seed))

    ensemble = replayed(trains_as_alone(one, samples=100, count=2))
    ensemble.trainers[0].estimator.beta.fill_(0.25)
    assert [[p.beta for p in reports] for reports in ensemble.run(20)] == [[0.25, 1.5]]


def test_dynamic_binarization_buffers_and_dropout():
    """Keys of binarisation, batch normalisation's running means, and a mask that is drawn in place."""
    grey = aevb.data.DynamicBinarization(torch.rand(60, 6, generator=torch.Generator().manual_seed(0)).double())

    def network(rows, columns):
        first = nn.Linear(rows, 5, bias=False)  # whose gradient would be rounding alone, which Adam makes large
        return nn.Sequential(first, nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Tanh(), nn.Linear(5, columns))

    def one(seed):
        with aevb.seeded(seed):
            model, _ = paper_pair(size=60)
            guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(6, 2, network=network), 60).double()
        return aevb.Trainer(model, guide, grey, None, ADAM, 20, seed, "eager", device="cpu", report_every=100)

    trainers = trains_as_alone(one, samples=160)
    buffers = [trainer.guide.guide.network[1].running_mean for trainer in trainers]
    assert not torch.equal(buffers[0], buffers[1])


def test_a_pair_of_pyro_params():
    """Parameters of the trainers' own stores, and a plate that draws a permutation."""
    data = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))

    def one(seed):
        pair = hand_written_pair(60)
        return aevb.Trainer(*pair, data, None, ADAM, 20, seed, "eager", device="cpu", report_every=100)

    trainers = trains_as_alone(one, samples=100, tolerance=1e-5)
    assert not torch.equal(trainers[0].parameters["gain"], trainers[1].parameters["gain"])
    assert not list(pyro.get_param_store())


@pytest.mark.slow
def test_compiled_in_float32():
    def one(seed):
        with aevb.seeded(seed):
            model, guide = paper_pair(size=60, dtype=torch.float32)
        return aevb.Trainer(model, guide, binary(60, dtype=torch.float32), None, ADAM, 20, seed, "eager", device="cpu")

    trains_as_alone(one, samples=200, ensemble=Ensemble, tolerance=2e-5)


def test_gradients_of_another_layout():
    """torch's fused optimizers read a transposed gradient as if it were not."""

    class Product(aevb.likelihoods.Likelihood):
        def __init__(self, seed):
            super().__init__(2, 6)
            self.weight = nn.Parameter(torch.randn(6, 2, generator=torch.Generator().manual_seed(seed)).double())

        def forward(self, z):
            return pyro.distributions.Normal((z.unsqueeze(-1) * self.weight.T).sum(-2), 1.0).to_event(1)

    def one(seed):
        with aevb.seeded(seed):
            _, guide = paper_pair(size=60)
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(2).double(), Product(seed), 60)
        return aevb.Trainer(model, guide, binary(60), None, ADAM, 20, seed, "eager", device="cpu", report_every=100)

    trains_as_alone(one, samples=100)


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    "Adam": partial(torch.optim.Adam, amsgrad=True, weight_decay=0.1),
    "AdamW": torch.optim.AdamW,
    "Adagrad": partial(torch.optim.Adagrad, fused=True, lr_decay=0.1),
    "RMSprop": partial(torch.optim.RMSprop, centered=True, momentum=0.5),
    "Adagrad with a pause": partial(optimizers.Adagrad, warm_up=3),
    "CosineAdam": partial(optimizers.CosineAdam, total_steps=8),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_joined_optimizer_is_exact(name):
    """Bit for bit, at the same gradients: joined for four steps, parted, and joined anew; one parameter has none."""
    torch.manual_seed(1)
    start, rates = [[torch.randn(3, 2), torch.randn(()), torch.randn(4)] for _ in range(4)], (0.1, 0.1, 0.2, 0.1)
    ours, theirs = ([[p.clone() for p in own] for own in start] for _ in range(2))
    joint, alone = ([OPTIMIZERS[name](p, lr=rate) for p, rate in zip(o, rates, strict=True)] for o in (ours, theirs))
    stacked = Stacked(ours)
    for _ in range(2):
        stacked.join()
        together = joined_optimizers(joint, stacked)
        assert [len(optimizer.optimizers) for optimizer in together] == [2, 1, 1]
        for _ in range(4):
            gradients = [torch.randn(4, 3, 2), torch.randn(4), None]
            for optimizer in together:
                optimizer.step(gradients)
            for m, (own, optimizer) in enumerate(zip(theirs, alone, strict=True)):
                for parameter, gradient in zip(own, gradients, strict=True):
                    parameter.grad = None if gradient is None else gradient[m]
                optimizer.step()
        stacked.part()
        for optimizer in together:
            optimizer.part()
        assert_close([o.state_dict() for o in joint], [o.state_dict() for o in alone], 0)
        assert_close(ours, theirs, 0)


def test_every_optimizer_that_is_taken_is_tested():
    tried = {type(make_optimizer([torch.zeros(1)], lr=0.1)) for make_optimizer in OPTIMIZERS.values()}
    assert tried == set(ELEMENTWISE)


RANDOM = {
    "normal": lambda p: torch.empty(5, 7).normal_(1.0, 2.0) + p,
    "uniform": lambda p: torch.empty(5, 7).uniform_(-1.0, 1.0) + p,
    "exponential": lambda p: torch.empty(5, 7).exponential_(2.0) + p,
    "mask": lambda p: torch.empty(5, 7).bernoulli_(0.3) + p,
    "randn": lambda p: torch.randn(5, 7) + torch.randn_like(p),
    "rand": lambda p: torch.rand(5, 7) + torch.rand_like(p),
    "permutation": lambda p: p[torch.randperm(5)],
    "normal of tensors": lambda p: torch.normal(p, 1 + p),
    "Bernoulli": lambda p: torch.bernoulli(p),
}


@pytest.mark.parametrize("name", RANDOM)
def test_noise_is_drawn_as_the_step_draws_it(name):
    """The same bits from the same generator, which is left in the same state."""
    probability = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    graph = make_fx(RANDOM[name])(probability)
    draws, generator = noise_as_inputs(graph), torch.Generator().manual_seed(1)
    noise = [torch.empty(draw.like.shape, dtype=draw.like.dtype) for draw in draws]
    for draw, one in zip(draws, noise, strict=True):
        draw.fill(one, generator=generator)
    ours = graph(probability, *noise)
    torch.manual_seed(1)
    torch.testing.assert_close(ours, RANDOM[name](probability), rtol=0, atol=0)
    assert torch.equal(generator.get_state(), torch.get_rng_state())


@pytest.mark.parametrize("draw", [torch.poisson, lambda p: p.clone().uniform_() * p.normal_(), lambda p: p.T.normal_()])
def test_noise_of_no_known_base_is_refused(draw):
    """A Poisson's, a tensor filled that is used elsewhere too, another order of the elements."""
    with pytest.raises(NotImplementedError, match=r"draws|depends"):
        noise_as_inputs(make_fx(lambda p: draw(torch.add(p, 1)) + p)(torch.rand(5, 5)))


# ---------------------------------------------------------------- before, between and after


def test_members_go_on_alone_and_together_again():
    """At a report they are trainers as any others: saved, resumed, trained by themselves."""
    together, alone = ([member(seed, optimizer=ADAM) for seed in range(2)] for _ in range(2))
    ensemble = replayed(together)
    list(ensemble.run(100))
    resumed = member(1, optimizer=ADAM)
    resumed.load_state_dict(together[1].state_dict())
    for trainer in (*together, resumed):
        list(trainer.run(100))
    list(ensemble.run(100))
    list(resumed.run(100))
    for trainer in alone:
        list(trainer.run(300))
    for ours, theirs in zip((*together, resumed), (*alone, alone[1]), strict=True):
        assert_close(ours.state_dict(), theirs.state_dict())


def test_changes_at_a_report_take_effect():
    """A step size, weights frozen, weights replaced by others."""

    def change(trainer):
        trainer.engine.optimizer.param_groups[0]["lr"] = 0.05
        trainer.model.requires_grad_(False).train(False)
        trainer.guide.guide.network[0].bias.data.fill_(1.0)

    together, alone = ([member(seed, optimizer=ADAM) for seed in range(2)] for _ in range(2))
    for _ in replayed(together).run(200):
        if together[0].step == 5:
            for trainer in together:
                change(trainer)
    for trainer in alone:
        list(trainer.run(100))
        change(trainer)
        list(trainer.run(100))
    for ours, theirs in zip(together, alone, strict=True):
        assert_close(weights(ours), weights(theirs))


class Weighted(SGVB):
    """A number that a recording freezes, and of the gradient alone."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = weight

    def differentiable_loss(self, *args):
        loss = super().differentiable_loss(*args)
        return loss.detach() + self.weight * (loss - loss.detach())


def test_a_number_changed_in_all_members_is_recorded_anew():
    def run(trainers, ensemble):
        for weight in (1.0, 3.0):
            for trainer in trainers:
                trainer.estimator.weight = weight
            list(ensemble.run(60)) if ensemble else [list(trainer.run(60)) for trainer in trainers]
        return [weights(trainer) for trainer in trainers]

    together, alone = (
        [member(s, estimator=Weighted(), optimizer=partial(torch.optim.SGD, lr=1e-4)) for s in range(2)]
        for _ in range(2)
    )
    assert_close(run(together, replayed(together)), run(alone, None))


def test_the_process_is_left_as_it_was():
    state, threads, precision = torch.get_rng_state(), torch.get_num_threads(), torch.get_float32_matmul_precision()
    list(replayed([member(seed) for seed in range(2)]).run(40))
    assert torch.equal(state, torch.get_rng_state())
    assert (threads, precision) == (torch.get_num_threads(), torch.get_float32_matmul_precision())
