"""One seed, separate streams, and the counter-based uniform numbers that binarise."""

import torch
from scipy import stats

from pyro_aevb.estimators import SGVB
from pyro_aevb.seeds import derive, hashed_uniform
from tests.trainings import make


def draws(epochs, rows, width):
    return torch.stack([hashed_uniform(derive(0, "test", e), torch.arange(rows), width) for e in range(epochs)])


def test_hashed_numbers_are_uniform():
    uniform = draws(1, 400, 500).flatten()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3  # fails by chance with p = 1e-3, and the key is fixed


def test_hashed_numbers_are_independent_across_keys_rows_and_columns():
    uniform = draws(40, 50, 60) - 0.5
    for dim in range(3):
        moved = uniform.movedim(dim, 0)
        for lag in (1, 2, 8):
            z = (moved[lag:] * moved[:-lag]).mean() * 12 * moved[lag:].numel() ** 0.5
            assert abs(z) < 4, (dim, lag)  # nine z-scores: fails by chance with p < 6e-4
    flat = uniform.flatten(1)
    z = (flat @ flat.T - flat.square().sum(1).diag()) * 12 / flat.shape[1] ** 0.5
    assert z.abs().max() < 5  # 780 z-scores: p < 5e-4


def test_hashed_numbers_depend_on_key_row_and_column_alone():
    rows = torch.tensor([7, 3, 59_999])
    assert torch.equal(hashed_uniform(5, rows, 10)[1], hashed_uniform(torch.tensor(5), torch.tensor([3]), 20)[0, :10])


def test_hashed_numbers_are_what_they_were():
    """Binarised test sets, and so published numbers, depend on them."""
    values = hashed_uniform(12345, torch.tensor([0, 1]), 2) * 2**24
    assert values.tolist() == [[635775.0, 12504099.0], [3438835.0, 1138027.0]]


def test_the_order_of_data_does_not_depend_on_how_much_noise_is_drawn():
    """The streams of one seed are separate: three particles take more noise than one, and see the same minibatches."""
    one, two = make(estimator=SGVB()), make(estimator=SGVB(num_particles=3))
    for trainer in (one, two):
        list(trainer.run(100))
    assert torch.equal(one.batches[one.step][0], two.batches[two.step][0])
    assert not torch.equal(make().batches[0][0], make(seed=1).batches[0][0])
