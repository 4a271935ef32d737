"""The paper's Adagrad against its formula, CosineAdam against torch's, in all engines, and resumed."""

import copy
from functools import partial

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from pyro_aevb import InputError
from pyro_aevb.engines.optimizer import load_optimizer_state
from pyro_aevb.optimizers import Adagrad, CosineAdam
from pyro_aevb.states import sealed
from tests.trainings import assert_equal, make, weights


@pytest.mark.parametrize("how", [{}, {"fused": True}, {"capturable": True}])
def test_the_formula_step_by_step(how):
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    expected, total = p.detach().clone(), torch.zeros(5, dtype=torch.float64)
    optimizer = Adagrad([p], lr=0.3, weight_decay=0.1, warm_up=3, **how)
    for step in range(8):
        g = torch.randn(5, generator=generator, dtype=torch.float64)
        p.grad = g.clone()
        optimizer.step()
        g = g + 0.1 * expected
        total += g**2
        if step >= 3:
            expected = expected - 0.3 * g / (total.sqrt() + 1e-10)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-13, atol=1e-13)
    assert optimizer.param_groups[0]["lr"] == 0.3


@pytest.mark.parametrize("fused", [None, True])
def test_cosine_adam_is_torchs_adam_under_torchs_schedule(fused):
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    q = p.detach().clone().requires_grad_()
    optimizer = CosineAdam([p], lr=0.3, total_steps=7, weight_decay=0.1, fused=fused)
    oracle = torch.optim.Adam([q], lr=0.3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(oracle, 7)
    for _ in range(7):
        p.grad = torch.randn(5, generator=generator, dtype=torch.float64)
        q.grad = p.grad.clone()
        for each in (optimizer, oracle, schedule):
            each.step()
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)
    assert optimizer.param_groups[0]["lr"] == 0.3
    end = p.detach().clone()
    optimizer.step()
    assert torch.equal(p, end)


PAUSED = partial(Adagrad, lr=0.1, warm_up=10)
FALLING = partial(CosineAdam, lr=0.01, total_steps=25)


def trained(engine, samples=500, optimizer=PAUSED):
    trainer = make(engine=engine, batch_size=20, optimizer=optimizer)
    if engine == "captured":
        trainer.engine.gradients.compiled = False
    list(trainer.run(samples))
    return trainer


@pytest.mark.parametrize("optimizer", [PAUSED, FALLING])
def test_captured_equals_eager(optimizer):
    assert_equal(weights(trained("captured", optimizer=optimizer)), weights(trained("eager", optimizer=optimizer)))


def test_a_resumed_run_goes_on_where_the_cosine_was(tmp_path):
    begun = trained("eager", 200, FALLING)
    torch.save(begun.state_dict(), tmp_path / "state.pt")
    again = make(engine="eager", batch_size=20, optimizer=FALLING)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(again.run(300))
    assert_equal(weights(again), weights(trained("eager", 500, FALLING)))


def test_nothing_moves_in_the_pause_and_a_resumed_run_goes_on_with_it(tmp_path):
    begun, before = trained("eager", samples=100), weights(make())  # 5 of 10 steps
    assert_equal(weights(begun), before)
    torch.save(begun.state_dict(), tmp_path / "state.pt")
    again = make(engine="eager", batch_size=20, optimizer=partial(Adagrad, lr=0.1, warm_up=10))
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(again.run(400))
    assert_equal(weights(again), weights(trained("eager")))


@pytest.mark.parametrize("there", [{"fused": True}, {"capturable": True}, {"fused": False}])
@pytest.mark.parametrize("here", [{"fused": True}, {"capturable": True}, {"fused": False}])
def test_a_state_goes_on_where_steps_are_computed_otherwise(there, here):
    def stepped(optimizer, p, times):
        for i in range(times):
            p.grad = torch.full_like(p, i + 1.0)
            optimizer.step()

    p, q = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    first, second = Adagrad([p], lr=0.3, warm_up=2, **there), Adagrad([q], lr=0.7, warm_up=9, **here)
    stepped(first, p, 3)
    q.data.copy_(p)
    load_optimizer_state(second, copy.deepcopy(first.state_dict()))
    assert {key: second.param_groups[0][key] for key in here} == here
    stepped(first, p, 4)
    stepped(second, q, 4)
    torch.testing.assert_close(p, q, rtol=1e-13, atol=0)


def test_a_state_of_torchs_own_adagrad_is_past_the_pause():
    p = torch.ones(3, requires_grad=True)
    ours = Adagrad([p], warm_up=7)
    load_optimizer_state(ours, torch.optim.Adagrad([p]).state_dict())
    assert ours.param_groups[0]["steps_left"] == 0


@pytest.mark.parametrize("saved", [torch.optim.Adam, torch.optim.SGD, CosineAdam])
@pytest.mark.parametrize("here", [Adagrad, CosineAdam, torch.optim.SGD, torch.optim.Adagrad])
def test_another_optimizers_state_is_refused(saved, here):
    if saved is here:
        return
    p = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="another optimizer"):
        load_optimizer_state(here([p]), saved([p]).state_dict())


def test_a_state_of_other_groups_is_refused():
    p = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match="different number"):
        load_optimizer_state(Adagrad([p]), Adagrad([{"params": [p]}, {"params": []}]).state_dict())


def test_a_group_without_gradients_stays():
    p, q = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = Adagrad([{"params": [p]}, {"params": [q]}], lr=0.3, warm_up=0, capturable=True)
    p.grad = torch.ones(3)
    optimizer.step()
    assert (p < 1).all()
    assert (q == 1).all()


def test_a_run_of_pyros_svi_saved_before_there_was_a_pause_goes_on(tmp_path):
    begun = make(engine="svi")
    list(begun.run(100))
    state = begun.state_dict()
    for one in state["optimizer"].values():
        for key in ("steps_left", "capturable"):
            del one["param_groups"][0][key]
    again = make(engine="svi")
    again.load_state_dict(sealed(state))
    list(begun.run(100))
    list(again.run(100))
    assert_equal(weights(begun), weights(again))


def as_at_first(monkeypatch, *classes):
    """No optimizer of these has been made in this process: torch has wrapped no step."""
    for cls in classes:
        step = cls.step
        monkeypatch.setattr(cls, "step", step.__wrapped__ if getattr(step, "hooked", False) else step)


@pytest.mark.parametrize("how", [{}, {"fused": True}])
@pytest.mark.parametrize("order", ["torch's, ours", "ours, torch's", "ours"])
@pytest.mark.parametrize(("ours", "torchs"), [(Adagrad, torch.optim.Adagrad), (CosineAdam, torch.optim.Adam)])
def test_hooks_run_once_a_step(ours, torchs, order, how, monkeypatch):
    as_at_first(monkeypatch, ours, torchs)
    assert not getattr(ours.step, "hooked", False)
    p, q = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    made = {"ours": lambda: ours([p], **how), "torch's": lambda: torchs([q], **how)}
    optimizer = {name: made[name]() for name in order.split(", ")}["ours"]
    called = []
    handles = [
        optimizer.register_step_pre_hook(lambda *_: called.append("before")),
        register_optimizer_step_pre_hook(lambda *_: called.append("before all")),
        optimizer.register_step_post_hook(lambda *_: called.append("after")),
        register_optimizer_step_post_hook(lambda *_: called.append("after all")),
    ]
    try:
        p.grad = torch.ones(3)
        optimizer.step()
        assert called == ["before all", "before", "after", "after all"]
        loss = optimizer.step(lambda: (p**2).sum())  # torch's own handling of gradients is there still
        assert loss.requires_grad
        assert len(called) == 8
    finally:
        for handle in handles:
            handle.remove()


def test_from_the_command_line(cli, tmp_path):
    words = "--optimizer=pyro_aevb.optimizers.Adagrad", "--optimizer.lr=0.1", "--optimizer.warm_up=3"
    assert cli("train", "--hidden=4", "--samples=400", *words, "--out=run")[0] == 0
    assert "warm_up: 3" in (tmp_path / "run" / "config.yaml").read_text()
    assert cli("train", "--resume=run", "--samples=600")[0] == 0


def test_a_negative_pause_is_refused():
    with pytest.raises(InputError, match="warm_up"):
        Adagrad([torch.zeros(1)], warm_up=-1)


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="total_steps"):
        CosineAdam([torch.zeros(1)], total_steps=0)
