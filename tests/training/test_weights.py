"""What somebody changes on a training between its steps takes effect, or is refused by name and changes nothing."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import InputError
from pyro_aevb.states import sealed
from tests.trainings import assert_equal

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
ADAM = partial(torch.optim.Adam, lr=1e-3)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.decode = nn.Linear(2, 6)
        self.encode = nn.Linear(6, 4)
        self.register_buffer("unsaved", torch.zeros(()), persistent=False)
        self.fails = False

    def model(self, x):
        if self.fails:
            raise OSError("the disk is gone")
        pyro.module("pair", self)
        with pyro.plate("data", len(X), subsample_size=len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z) + self.unsaved, 1.0).to_event(1), obs=x)

    def guide(self, x):
        mean, log_scale = self.encode(x).chunk(2, -1)
        with pyro.plate("data", len(X), subsample_size=len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


def trainer_of(pair, engine="eager"):
    how = {"optimizer": ADAM, "batch_size": 20, "engine": engine, "report_every": 100, "device": "cpu"}
    return aevb.Trainer(pair.model, pair.guide, X, **how)


def em_of(pair, engine="eager"):
    how = {"optimizer": ADAM, "batch_size": 20, "engine": engine, "report_every": 100, "device": "cpu"}
    return aevb.MonteCarloEM(pair.model, X, leapfrog_steps=2, updates=1, **how)


MAKERS = pytest.mark.parametrize("make", [trainer_of, em_of])


def another_weight(pair):
    pair.decode.weight = nn.Parameter(torch.ones(6, 2))


def unfrozen(pair):
    pair.decode.bias.requires_grad_(True)


@MAKERS
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_weight, r"decode\.weight was frozen, or another tensor, when the trainer was made"),
        (unfrozen, r"decode\.bias was frozen, or another tensor"),
        (lambda pair: pair.double(), r"is torch.float64 on cpu now, and was torch.float32"),
    ],
    ids=["another", "unfrozen", "precision"],
)
def test_weights_that_would_not_train_are_refused(make, change, words):
    """Monte Carlo EM trained on without them, and met doubles with a raw error."""
    with aevb.seeded(0):
        pair = Pair()
    pair.decode.bias.requires_grad_(False)
    trainer = make(pair)
    reports = trainer.run(400)
    next(reports)
    change(pair)
    with pytest.raises(InputError, match=words):
        list(reports)


@MAKERS
def test_a_step_that_fails_in_forward_is_taken_back(make):
    """Monte Carlo EM said that it broke off in the middle of its update, and could not go on."""
    found = []
    for fails in (False, True):
        with aevb.seeded(0):
            pair = Pair()
        trainer = make(pair)
        list(trainer.run(100))
        if fails:
            pair.fails = True
            with pytest.raises(OSError, match="the disk is gone"):
                list(trainer.run(100))
            pair.fails = False
        list(trainer.run(200))
        found.append({name: p.detach().clone() for name, p in trainer.parameters.items()})
    assert_equal(*found)


def test_model_guide_and_estimator_of_a_trainer_cannot_be_exchanged():
    """Silently the first ones trained on."""
    trainer = trainer_of(Pair())
    for name in ("model", "guide", "estimator"):
        with pytest.raises(AttributeError):
            setattr(trainer, name, getattr(trainer, name))


class Extra(Pair):
    def get_extra_state(self):
        return {"epoch": 1}

    def set_extra_state(self, state):
        pass


def test_a_module_with_another_state_than_tensors_is_named():
    with pytest.raises(InputError, match=r"_extra_state of a module's state is .*keep it in a buffer"):
        trainer_of(Extra()).state_dict()


class Picky(Pair):
    def _load_from_state_dict(self, state, *args):
        if (state["decode.bias"] > 5).any():
            raise TypeError("not these")
        super()._load_from_state_dict(state, *args)


def test_a_state_that_fails_in_whatever_way_changes_nothing():
    """Of a module's own making, say: the weights were changed by then, and the step was not."""
    pair = Picky()
    trainer = trainer_of(pair)
    list(trainer.run(100))
    state = trainer.state_dict()
    bad = trainer_of(pair).state_dict()
    before = {name: p.detach().clone() for name, p in trainer.parameters.items()}
    for tensors in bad["modules"].values():
        tensors["decode.weight"] = tensors["decode.weight"] + 1
        tensors["decode.bias"] = tensors["decode.bias"] + 10
    with pytest.raises(TypeError, match="not these"):
        trainer.load_state_dict(sealed({key: value for key, value in bad.items() if key != "digest"}))
    assert_equal(dict(trainer.parameters), before)
    trainer.load_state_dict(state)


def test_members_with_hooks_at_their_optimizers_are_refused():
    """The first one's were called for all, the others' never."""
    members = []
    for seed in range(2):
        with aevb.seeded(seed):
            pair = Pair()
        members.append(trainer_of(pair))
    members[1].engine.optimizer.register_step_pre_hook(lambda *_: None)
    with pytest.raises(InputError, match="member 1 has hooks at its optimizer's step"):
        aevb.Ensemble(members)
