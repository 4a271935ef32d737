"""Monte Carlo EM that moves all chains before the weights: as minibatch by minibatch where that is the same."""

from functools import partial

import pytest
import torch

from pyro_aevb import InputError, MonteCarloEM
from tests.training.test_monte_carlo_em import make_model, principal_components

SGD = partial(torch.optim.SGD, lr=1e-4)


def train(samples, optimizer=SGD, batch_size=100, e_step="all", state=None, **options):
    data = principal_components()[0]
    trainer = MonteCarloEM(make_model(), data, optimizer, batch_size, device="cpu", e_step=e_step, **options)
    if state:
        trainer.load_state_dict(state)
    reports = list(trainer.run(samples))
    return trainer, reports


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.parameters.values()])


def test_of_one_minibatch_it_is_the_same():
    first, second = (train(900, batch_size=300, e_step=e_step)[0] for e_step in ("all", "minibatch"))
    assert torch.equal(weights(first), weights(second))
    assert torch.equal(first.chains, second.chains)


def test_weights_wait_until_all_chains_have_moved():
    at_rest = partial(torch.optim.SGD, lr=0.0)
    moved = train(300, e_step="minibatch", optimizer=at_rest)[0]
    trainer, _ = train(1)
    assert trainer.samples_seen == 300
    assert torch.equal(trainer.chains, moved.chains)
    assert not torch.equal(weights(trainer), weights(moved))


def test_updates_go_through_the_minibatches_in_turn():
    trainer, _ = train(300, updates=5)
    oracle = train(300, e_step="minibatch", optimizer=partial(torch.optim.SGD, lr=0.0))[0]
    optimizer = SGD(oracle.parameters.values())
    for update in range(5):
        rows, _ = oracle.batches.visit(update % 3)
        x, z = oracle.batches.parts[0][rows], oracle.chains[rows]
        joint = oracle.model.likelihood(z).log_prob(x) + oracle.model.prior().log_prob(z)
        optimizer.zero_grad()
        (-3 * joint.sum()).backward()
        optimizer.step()
    torch.testing.assert_close(weights(trainer), weights(oracle), rtol=1e-12, atol=1e-12)


def test_reports_come_after_whole_moves():
    _, reports = train(700, report_every=100)
    assert [report.samples_seen for report in reports] == [300, 600, 900]
    assert all(torch.isfinite(torch.tensor(report.log_joint)) for report in reports)


def test_gone_on_with_is_the_same():
    begun = train(600)[0]
    assert torch.equal(train(300, state=begun.state_dict())[0].chains, train(900)[0].chains)


def test_another_e_step_is_refused():
    with pytest.raises(InputError, match="e_step"):
        train(300, e_step="minibatch", state=train(300)[0].state_dict())
    with pytest.raises(InputError, match="unknown e_step"):
        train(1, e_step="some")
