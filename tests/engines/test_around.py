"""What stands around an optimizer's step: clipping, schedules, averages, against torch's own, eager, captured, resumed.

The training of each oracle is the package's eager step by hand: the same gradients, then torch's functions.
"""

import copy
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.engines import captured as capture
from pyro_aevb.engines.around import Clip
from pyro_aevb.engines.captured import Launches
from pyro_aevb.engines.cuda_graphs import WholeSteps
from pyro_aevb.optimizers import Adagrad, CosineAdam
from pyro_aevb.states import sealed
from tests.pairs import binary
from tests.trainings import assert_equal, make, weights

ADAM = partial(torch.optim.Adam, lr=2**-7)
SCHEDULES = {
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=30),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=7),
    "steps": partial(lr_scheduler.StepLR, step_size=5, gamma=0.5),
    "milestones": partial(lr_scheduler.MultiStepLR, milestones=[3, 9]),
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=2**-6, total_steps=100),
    "cyclic": partial(lr_scheduler.CyclicLR, base_lr=2**-8, max_lr=2**-6, step_size_up=3),
    "several": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
}
PLATEAU = partial(
    lr_scheduler.ReduceLROnPlateau, mode="max", patience=0, threshold=3.0, threshold_mode="abs", factor=0.5
)


def made(engine="eager", optimizer=ADAM, **options):
    trainer = make(engine=engine, batch_size=25, optimizer=optimizer, **options)
    if engine == "captured":
        trainer.engine.gradients.compiled = False
    return trainer


def rates(trainer):
    return [group["lr"] for group in trainer.engine.optimizer.param_groups]


def by_hand(steps, optimizer=ADAM, before=lambda p: None, after=lambda: None, scheduler=None):
    """The weights that the package's gradients and torch's functions lead to."""
    trainer = made(optimizer=optimizer)
    parameters = list(trainer.parameters.values())
    own = trainer.engine.optimizer
    schedule = scheduler(own) if scheduler else None
    follow = after(trainer) if after(trainer) else None
    with trainer.running():
        for step in range(steps):
            trainer.engine.gradients(trainer.batches.visit(step))
            before(parameters)
            own.step()
            if follow:
                follow()
            if schedule:
                schedule.step()
    return trainer


# ---------------------------------------------------------------- clipping


CLIPS = {
    "norm": ({"clip_norm": 0.5}, lambda p: torch.nn.utils.clip_grad_norm_(p, 0.5)),
    "value": ({"clip_value": 0.01}, lambda p: torch.nn.utils.clip_grad_value_(p, 0.01)),
}


@pytest.mark.parametrize("engine", ["eager", "captured"])
@pytest.mark.parametrize("optimizer", [ADAM, partial(torch.optim.SGD, lr=2**-7, momentum=0.9, fused=False)])
@pytest.mark.parametrize("kind", CLIPS)
def test_clipping_is_torchs(kind, optimizer, engine):
    options, before = CLIPS[kind]
    trainer = made(engine, optimizer, **options)
    list(trainer.run(300))  # 12 steps and the short ones between
    expected = by_hand(trainer.step, optimizer, before, lambda t: None)
    assert_equal(weights(trainer), weights(expected))
    free = made(engine, optimizer)
    list(free.run(300))
    assert any(not torch.equal(a, b) for a, b in zip(weights(free).values(), weights(trainer).values(), strict=True))


def test_both_bounds_hold_and_a_shared_gradient_is_clipped_once():
    first, second = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    first.grad = second.grad = torch.tensor([3.0, 4.0])
    Clip(norm=1.0, value=0.5)([first, second, torch.nn.Parameter(torch.zeros(1))])
    expected = (torch.tensor([3.0, 4.0]) / 50**0.5).clamp(-0.5, 0.5)
    torch.testing.assert_close(first.grad, expected)
    torch.testing.assert_close(second.grad, expected)
    one, all_alike = torch.nn.Parameter(torch.zeros(3)), torch.ones(1).expand(3)
    one.grad = all_alike
    Clip(norm=1.0)([one])
    torch.testing.assert_close(one.grad, torch.full((3,), 3**-0.5))


def test_a_gradient_that_is_not_finite_is_met_at_the_report():
    trainer = made(optimizer=partial(torch.optim.SGD, lr=1e308), clip_norm=1e308)
    with pytest.raises(aevb.NonFiniteLossError):
        list(trainer.run(200))


# ---------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    ("name", "engine"), [*((name, "eager") for name in SCHEDULES), ("cosine", "captured"), ("cyclic", "captured")]
)
def test_a_schedule_is_torchs(name, engine):
    trainer = made(engine, scheduler=SCHEDULES[name])
    list(trainer.run(400))
    expected = by_hand(trainer.step, ADAM, scheduler=SCHEDULES[name], after=lambda t: None)
    assert_equal(weights(trainer), weights(expected))
    assert rates(trainer) == rates(expected)


@pytest.mark.parametrize("engine", ["eager", "captured"])
def test_cosine_annealing_is_cosine_adam(engine):
    steps = 15
    falls = made(engine, scheduler=partial(lr_scheduler.CosineAnnealingLR, T_max=steps))
    ours = made(engine, optimizer=partial(CosineAdam, lr=2**-7, total_steps=steps))
    for trainer in (falls, ours):
        list(trainer.run(300))
        assert trainer.step == steps
    for name, weight in weights(ours).items():
        torch.testing.assert_close(weights(falls)[name], weight, rtol=1e-10, atol=1e-12)


def test_a_schedule_steps_by_epochs():
    trainer = made(scheduler=SCHEDULES["steps"], scheduler_every="epoch")  # 3 steps an epoch
    list(trainer.run(60 * 4 + 1))
    assert (trainer.step, rates(trainer)) == (13, [2**-7])
    list(trainer.run(60))
    assert (trainer.step, rates(trainer)) == (16, [2**-8])


def test_a_schedule_steps_by_whole_reports():
    trainer = made(scheduler=partial(lr_scheduler.ExponentialLR, gamma=0.5), scheduler_every="report")
    list(trainer.run(50))  # its report comes early, at the end
    assert rates(trainer) == [2**-7]
    list(trainer.run(250))
    assert rates(trainer) == [2**-10]


def test_a_plateau_of_the_reported_bound():
    trainer = made(scheduler=PLATEAU, scheduler_every="report")
    reports = list(trainer.run(400))
    oracle = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2**-7)
    plateau = PLATEAU(oracle)
    for report in reports:
        plateau.step(report.bound)
    assert rates(trainer) == [group["lr"] for group in oracle.param_groups]
    assert rates(trainer) < [2**-7]


def test_factors_of_schedule_and_optimizer_multiply():
    """A pause of ten steps, under a schedule that halves the step size every five."""
    paused = partial(Adagrad, lr=2**-4, warm_up=10)
    trainer = made(optimizer=paused, scheduler=SCHEDULES["steps"])
    before = weights(trainer)
    list(trainer.run(200))
    assert trainer.step == 10
    assert_equal(weights(trainer), before)
    list(trainer.run(100))
    assert rates(trainer) == [2**-7]
    plain = by_hand(trainer.step, paused, scheduler=SCHEDULES["steps"], after=lambda t: None)
    assert_equal(weights(trainer), weights(plain))


def test_a_scheduler_of_the_optimizer_that_is_given():
    model, guide = make().model, make().guide
    optimizer = torch.optim.Adam([*model.parameters(), *guide.parameters()], lr=0.01)
    scheduler = lr_scheduler.StepLR(optimizer, 2, 0.5)
    trainer = aevb.Trainer(model, guide, binary(60), None, optimizer, 20, device="cpu", scheduler=scheduler)
    list(trainer.run(60))
    assert rates(trainer) == [0.005]
    with pytest.raises(aevb.InputError, match="of another optimizer"):
        make(optimizer=ADAM, engine="eager", scheduler=scheduler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": partial(lr_scheduler.ReduceLROnPlateau, mode="max")}, "scheduler_every='report'"),
        ({"scheduler": lr_scheduler.ReduceLROnPlateau, "scheduler_every": "report"}, "mode='max'"),
        (
            {"scheduler": partial(lr_scheduler.ReduceLROnPlateau, mode="max"), "scheduler_every": "report"},
            "threshold_mode='abs'",
        ),
        ({"scheduler": lr_scheduler.StepLR}, "cannot be made: .*step_size"),
        ({"scheduler": lambda optimizer: optimizer}, "what scheduler makes must be a LRScheduler, not"),
        ({"scheduler": partial(lr_scheduler.LambdaLR, lr_lambda=lambda step: -step)}, "step size of -"),
        ({"scheduler": partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=4)}, "cannot go on after 5 steps"),
    ],
)
def test_a_schedule_that_cannot_be_meant(options, message):
    with pytest.raises(aevb.InputError, match=message) as error:
        list(made(**options).run(200))
    assert "\n" not in str(error.value)


def test_a_schedule_with_a_state_that_cannot_be_saved():
    class Odd(lr_scheduler.StepLR):
        def __init__(self, optimizer):
            self.what = {1, 2}
            super().__init__(optimizer, 3)

    with pytest.raises(aevb.InputError, match=r"Odd\.what is of type set"):
        made(scheduler=Odd)


@pytest.mark.parametrize("options", [{"scheduler": SCHEDULES["steps"]}, {"clip_value": 1.0}, {"averaging": 0.9}])
def test_what_svi_and_ensembles_do_not_take(options):
    with pytest.raises(aevb.InputError, match=r"engine='svi' takes no .*ClippedAdam"):
        make(engine="svi", **options)
    members = [made(seed=seed, **options) for seed in range(2)]
    with pytest.raises(aevb.InputError, match="member 0 has a scheduler, clipping or averaging"):
        aevb.Ensemble(members)


# ---------------------------------------------------------------- averages


@pytest.mark.parametrize("engine", ["eager", "captured"])
def test_averages_are_torchs(engine):
    trainer = made(engine, averaging=0.9)
    list(trainer.run(300))

    kept = []

    def follow(other):
        if not kept:
            pair = torch.nn.ModuleList([other.model, other.guide])
            kept.append(AveragedModel(pair, multi_avg_fn=get_ema_multi_avg_fn(0.9)))
            kept.append(pair)
        return lambda: kept[0].update_parameters(kept[1])

    expected = by_hand(trainer.step, after=follow)
    before = weights(trainer)
    assert_equal(before, weights(expected))
    with trainer.averaged():
        inside = weights(trainer)
    assert_equal(weights(trainer), before)
    averaged = {f"{i}.{n}": p for i, m in enumerate(kept[0].module) for n, p in m.state_dict().items()}
    assert_equal(inside, averaged)
    assert any(not torch.equal(before[name], inside[name]) for name in inside)


def test_averages_before_the_first_step_and_after_an_error():
    trainer = made(averaging=0.9)
    before = weights(trainer)
    with trainer.averaged():
        assert_equal(weights(trainer), before)
    list(trainer.run(100))
    now = weights(trainer)
    with pytest.raises(ZeroDivisionError), trainer.averaged():
        raise ZeroDivisionError
    assert_equal(weights(trainer), now)


def test_inside_the_block_nothing_but_evaluation():
    trainer = made(averaging=0.5)
    list(trainer.run(200))
    state = trainer.state_dict()
    outside = evidence.bound(trainer.model, trainer.guide, binary(60)).bound
    with trainer.averaged():
        inside = evidence.bound(trainer.model, trainer.guide, binary(60)).bound
        for refused in (
            lambda: list(trainer.run(50)),
            trainer.state_dict,
            lambda: trainer.load_state_dict(state),
            lambda: trainer.averaged().__enter__(),
        ):
            with pytest.raises(aevb.InputError, match="in place"):
                refused()
    assert not torch.equal(outside, inside)
    with pytest.raises(aevb.InputError, match="keeps no averages"), made().averaged():
        pass


# ---------------------------------------------------------------- saved and resumed


ALL = {"clip_norm": 0.5, "clip_value": 0.05, "averaging": 0.99, "scheduler": SCHEDULES["cosine"]}
OPTIONS = [
    *({"scheduler": scheduler} for scheduler in SCHEDULES.values()),
    {"scheduler": SCHEDULES["steps"], "scheduler_every": "epoch"},
    {"scheduler": PLATEAU, "scheduler_every": "report"},
    {"averaging": 0.9},
    ALL,
]


@pytest.mark.parametrize(
    ("engine", "options", "stop"),
    [
        *(("eager", options, stop) for options in OPTIONS for stop in (100, 130)),
        *(("captured", ALL, stop) for stop in (0, 100, 130)),
    ],
)
def test_stop_and_resume_equals_not_stopping_bit_for_bit(tmp_path, engine, options, stop):
    whole = made(engine, **options)
    list(whole.run(500))
    first = made(engine, **options)
    list(first.run(stop))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = made(engine, weights=99, **options)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    list(second.run(500 - second.samples_seen))
    assert_equal(weights(whole), weights(second))
    one, other = (copy.deepcopy(each.state_dict()) for each in (whole, second))
    assert one["digest"] == other["digest"] or stop == 130  # whose reports came at other places
    if "averaging" in options:
        with whole.averaged(), second.averaged():
            assert_equal(weights(whole), weights(second))


def test_a_state_without_and_a_training_with():
    plain, scheduled = made(), made(scheduler=SCHEDULES["steps"])
    averaged = made(averaging=0.9)
    with pytest.raises(aevb.InputError, match="trained without a scheduler, and this is with"):
        scheduled.load_state_dict(plain.state_dict())
    with pytest.raises(aevb.InputError, match="trained with a scheduler, and this is without"):
        plain.load_state_dict(scheduled.state_dict())
    with pytest.raises(aevb.InputError, match="with averages of weights, and this is without: give averaging alike"):
        plain.load_state_dict(averaged.state_dict())
    with pytest.raises(aevb.InputError, match="another scheduler"):
        made(scheduler=SCHEDULES["cosine"]).load_state_dict(scheduled.state_dict())
    with pytest.raises(aevb.InputError, match="every step, not every epoch"):
        made(scheduler=SCHEDULES["steps"], scheduler_every="epoch").load_state_dict(scheduled.state_dict())


def _change(key, value):
    def change(saved):
        saved["schedule"]["scheduler"][key] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _change("T_max", 0),
        _change("T_max", "long"),
        _change("T_max", float("nan")),
        _change("T_max", None),
        _change("last_epoch", True),
        _change("eta_min", -1e300),
        _change("_last_lr", [0.1, 0.1]),
        _change("step", 3),
        _change("optimizer", {}),
        lambda saved: saved["schedule"]["scheduler"].pop("base_lrs"),
        lambda saved: saved["schedule"].update(steps=-1),
        lambda saved: saved["schedule"].update(steps=1.5),
        lambda saved: saved.update(schedule=[]),
        lambda saved: saved["averages"].update(begun=1),
        lambda saved: saved["averages"].update(values=3),
        lambda saved: saved["averages"]["values"].popitem(),
        lambda saved: next(iter(saved["averages"]["values"].values())).fill_(float("inf")),
        lambda saved: saved["averages"]["values"].update({next(iter(saved["averages"]["values"])): torch.zeros(1)}),
        lambda saved: saved.update(averages=[]),
    ],
)
def test_a_crafted_state_is_refused_and_changes_nothing(change):
    trainer = made(scheduler=SCHEDULES["cosine"], averaging=0.9)
    list(trainer.run(100))
    state = copy.deepcopy(trainer.state_dict())
    change(state["optimizer"])
    digest = trainer.state_dict()["digest"]
    with pytest.raises(aevb.InputError) as error:
        trainer.load_state_dict(sealed(state))
    assert "\n" not in str(error.value)
    assert trainer.state_dict()["digest"] == digest


def test_a_schedule_that_is_over_can_be_opened():
    over = made(scheduler=partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=4))
    list(over.run(80))
    again = made(scheduler=partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=4))
    again.load_state_dict(over.state_dict())
    assert_equal(weights(again), weights(over))


# ---------------------------------------------------------------- several steps a launch, as on a GPU


@pytest.mark.parametrize(
    ("name", "every"), [*((name, "step") for name in SCHEDULES), ("steps", "epoch"), ("one cycle", "epoch")]
)
def test_a_launch_of_several_steps(name, every, monkeypatch):
    """All but the capture itself: a replay runs the body again, see test_cuda_graphs.py."""

    def warmed_up(body):
        body()
        return body

    monkeypatch.setattr(capture, "WholeSteps", partial(WholeSteps, make_replay=warmed_up))
    options = {
        "optimizer": ADAM,
        "batch_size": 20,
        "report_every": 300,
        "scheduler": SCHEDULES[name],
        "scheduler_every": every,
        "clip_norm": 0.5,
        "averaging": 0.9,
    }
    launched, eager = make(engine="captured", **options), make(engine="eager", **options)
    engine = launched.engine
    engine.gradients.compiled = False
    engine.launches = Launches(launched.objective, engine.gradients, engine.optimizer, 2, engine.around)
    for trainer in (launched, eager):
        list(trainer.run(800))
    assert bool(engine.launches.kept) == (name not in ("one cycle", "cyclic", "several", "chained"))
    assert rates(launched) == rates(eager)
    for one, other in ((weights(launched), weights(eager)), (averaged_of(launched), averaged_of(eager))):
        for key, weight in other.items():  # a graph has step sizes in float32
            torch.testing.assert_close(one[key], weight, rtol=1e-5, atol=1e-7)


def averaged_of(trainer):
    with trainer.averaged():
        return weights(trainer)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", ["cosine", "steps", "one cycle"])
def test_launches_on_a_gpu_equal_eager_steps(name):
    options = {
        "optimizer": partial(torch.optim.Adam, lr=2**-10),
        "batch_size": 20,
        "report_every": 500,
        "device": "cuda",
        "scheduler": SCHEDULES[name],
        "clip_norm": 0.5,
        "averaging": 0.9,
    }
    launched, eager = (make(engine=engine, **options) for engine in ("captured", "eager"))
    for trainer in (launched, eager):
        list(trainer.run(1600))
    assert bool(launched.engine.launches.kept) == (name != "one cycle")
    assert rates(launched) == rates(eager)
    for one, other in ((weights(launched), weights(eager)), (averaged_of(launched), averaged_of(eager))):
        for key, weight in other.items():
            torch.testing.assert_close(one[key], weight, rtol=1e-5, atol=1e-7)
