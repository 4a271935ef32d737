"""Loops of others: ten lines of PyTorch, Pyro's ``SVI``, Lightning. Each ends at the Trainer's weights.

Lightning comes with the extra docs: without it its tests skip, and with ``--require-docs``, which CI gives, they fail.
"""

import importlib
import logging
import warnings
from functools import partial

import pyro
import pytest
import torch
from torch.utils.data import DataLoader

import pyro_aevb as aevb
from pyro_aevb.estimators import IWAE, SGVB, DoublyReparameterized, SGVBAnalyticKL
from pyro_aevb.seeds import GlobalNoise, derive
from tests.pairs import binary, paper_pair
from tests.trainings import assert_equal, make, weights

STEPS = 12  # four epochs of three minibatches, of 25, 25 and 10
ADAM = partial(torch.optim.Adam, lr=1e-2, fused=True)
ESTIMATORS = [SGVB(), SGVBAnalyticKL(), IWAE(3), DoublyReparameterized(3)]


def trained(estimator):
    """What the Trainer comes to in some steps, and the minibatches that it took."""
    trainer = make(estimator=estimator, engine="eager", optimizer=ADAM)
    minibatches = [trainer.batches[step][0] for step in range(STEPS)]
    for _ in trainer.run(sum(map(len, minibatches))):
        pass
    assert trainer.step == STEPS
    return trainer, minibatches


def fresh_pair():
    with aevb.seeded(0):
        return paper_pair("Bernoulli", size=60)


def as_weights(model, guide):
    return {
        f"{i}.{name}": value.clone() for i, m in enumerate((model, guide)) for name, value in m.state_dict().items()
    }


def test_the_weights_have_moved():
    """Else whatever follows compares what nobody has trained."""
    before = as_weights(*fresh_pair())
    after = weights(trained(SGVB())[0])
    assert all((before[name] - after[name]).abs().max() > 1e-3 for name in before if "weight" in name)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_ten_lines_of_pytorch_take_the_trainers_steps(estimator):
    trainer, minibatches = trained(estimator)
    module = estimator(*fresh_pair())
    assert isinstance(module, torch.nn.Module)
    optimizer = ADAM(module.parameters())
    with GlobalNoise(derive(0, "noise")).swapped_in(), trainer.settings.applied():
        for x in minibatches:
            optimizer.zero_grad()
            module(x).backward()
            optimizer.step()
    assert_equal(weights(trainer), as_weights(module.model, module.guide))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_svi_takes_the_steps_of_ten_lines(estimator):
    """With Pyro's optimizer, which makes one of torch's for each parameter: equal up to rounding, in float64."""
    _, minibatches = trained(estimator)
    module = estimator(*fresh_pair())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    model, guide = fresh_pair()
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), estimator)
    with aevb.seeded(7):
        losses = []
        for x in minibatches:
            optimizer.zero_grad()
            loss = module(x)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    with aevb.seeded(7):
        assert losses == pytest.approx([svi.step(x) for x in minibatches], rel=1e-10)
    for name, value in as_weights(model, guide).items():
        torch.testing.assert_close(value, as_weights(module.model, module.guide)[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sizes", [(16, 16, 16), (32, 16)])
def test_accumulated_gradients_are_those_of_the_whole_minibatch(sizes):
    """Each piece's loss, weighed by its share of the data; torch draws 16 normal numbers at a time."""
    x = binary(48)
    module = SGVB()(*fresh_pair())
    found = []
    for pieces in (x.split(sizes), [x]):
        module.zero_grad()
        with aevb.seeded(1):
            for piece in pieces:
                (module(piece) * (len(piece) / len(x))).backward()
        found.append([parameter.grad.clone() for parameter in module.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert max(each.abs().max() for each in found[0]) > 0.1


@pytest.fixture
def lightning(request):
    """Lightning, without what it prints; and without the releases that were reported as compromised."""
    try:
        found = importlib.import_module("lightning")
    except ImportError:
        reason = "lightning is not installed: it comes with the extra docs"
        return pytest.fail(reason) if request.config.getoption("--require-docs") else pytest.skip(reason)
    assert found.__version__ not in ("2.6.2", "2.6.3")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return found


def fitted(lightning, module, minibatches, epochs, **options):
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few workers, few batches
        trainer.fit(module, DataLoader(minibatches, batch_size=None, generator=torch.Generator()))


def lightning_module(lightning, module):
    class Pair(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.loss = module

        def training_step(self, x, index):
            return self.loss(x)

        def configure_optimizers(self):
            return ADAM(self.parameters())

    return Pair()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda each: type(each).__name__)
def test_lightning_takes_the_trainers_steps(lightning, estimator):
    trainer, minibatches = trained(estimator)
    module = estimator(*fresh_pair())
    with GlobalNoise(derive(0, "noise")).swapped_in(), trainer.settings.applied():
        fitted(lightning, lightning_module(lightning, module), minibatches, epochs=1)
    assert_equal(weights(trainer), as_weights(module.model, module.guide))


def test_lightning_accumulates_as_a_loop_does(lightning):
    minibatches = list(binary(60)[:48].split(16))
    ours, theirs = (SGVB()(*fresh_pair()) for _ in range(2))
    optimizer = ADAM(ours.parameters())
    with aevb.seeded(4):
        for x in minibatches:
            (ours(x) / 3).backward()
        optimizer.step()
    with aevb.seeded(4):
        fitted(lightning, lightning_module(lightning, theirs), minibatches, epochs=1, accumulate_grad_batches=3)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
    assert not torch.equal(next(ours.parameters()), next(SGVB()(*fresh_pair()).parameters()))
