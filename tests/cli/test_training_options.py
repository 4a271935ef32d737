"""Schedulers, clipping, averages, early stopping on the command line: as in Python, resumed bit for bit, or refused."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.data.batches import steps_of
from pyro_aevb.engines import eager
from pyro_aevb.runs.folder import Folder
from tests.commands import SMALL, change_state, train

ALL = [
    "--optimizer=Adam",
    "--optimizer.lr=0.01",
    "--scheduler=CosineAnnealingLR",
    "--scheduler.T_max=30",
    "--averaging=0.9",
    "--clip_norm=5",
    "--early_stopping=4",
    "--held_out=0.2",
    "--engine=eager",
]


def config_of(name="run"):
    return yaml.safe_load((Path(name) / "config.yaml").read_text())


def without_seconds(records):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in records]


def test_the_same_as_in_python(cli):
    train(cli, *ALL)
    run = aevb.load_run("run", averaged=False)
    parts = run.data.train.probabilities.shape, run.data.held_out.shape
    assert parts == ((1200, 64), (300, 64))
    assert len(run.data.labels_train) == 1200
    config = run.config
    own = [each(2, 64, hidden=8) for each in (aevb.likelihoods.Bernoulli,)]
    with aevb.seeded(1):  # other weights: both come from the run's first state in a moment
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), *own, 1200)
        guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(64, 2, hidden=8), 1200)
    trainer = aevb.Trainer(
        model,
        guide,
        run.data.train,
        optimizer=partial(torch.optim.Adam, lr=0.01),
        batch_size=config.batch_size,
        engine="eager",
        report_every=100,
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=30),
        averaging=0.9,
        clip_norm=5.0,
    )
    train(cli, *ALL, "--samples=100", out="begun")
    trainer.load_state_dict(Folder("begun").load()["trainer"])
    list(aevb.EarlyStopping(trainer, run.data.held_out, 4).run(300))
    assert trainer.state_dict()["digest"] == Folder("run").load()["trainer"]["digest"]


@pytest.mark.parametrize("more", [[], ["--early_stopping=1"]])
def test_resumed_bit_for_bit(cli, more):
    """In one case patience ends between the cut and the end, by a step size that is far too large."""
    words = [*ALL, *more, *(["--optimizer.lr=0.5"] if more else [])]
    whole = train(cli, *words, "--samples=3000", out="whole")
    train(cli, *words, "--samples=600", out="parts")
    code, printed, errors = cli("train", "--resume=parts", "--samples=3000")
    assert code == 0, errors
    one, other = Folder("whole"), Folder("parts")
    assert without_seconds(one.metrics()) == without_seconds(other.metrics())
    for name in ("last", "best"):
        assert one.load(name)["trainer"]["digest"] == other.load(name)["trainer"]["digest"], name
    assert one.load()["early_stopping"] == other.load()["early_stopping"]
    assert ("stopped early" in printed) == ("stopped early" in whole) == bool(more)
    if more:
        assert one.load()["samples_seen"] < 3000
        code, printed, errors = cli("train", "--resume=parts")
        assert code == 0, errors
        assert "stopped early" in printed
        assert other.load()["trainer"]["digest"] == one.load()["trainer"]["digest"]


def test_best_is_the_best_by_held_out_data(cli):
    printed = train(cli, *ALL)
    records = [record for record in Folder("run").metrics() if "held_out_bound" in record]
    best = max(records, key=lambda record: record["held_out_bound"])
    state = Folder("run").load("best")
    assert state["samples_seen"] == best["samples_seen"]
    assert state["best_bound"] == best["held_out_bound"]
    run = aevb.load_run("run", "best")
    bound = evidence.bound(run.model, run.guide, run.data.held_out).bound.mean().item()
    assert bound == pytest.approx(best["held_out_bound"], abs=1e-6)
    assert f"{best['held_out_bound']:.2f} on held-out data at {best['samples_seen']:,} samples" in printed


def test_interrupted_the_best_is_saved_too(cli, monkeypatch):
    original, taken = eager.EagerGradients.__call__, []

    def then_stop(self, visit):
        taken.append(visit)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, visit)

    monkeypatch.setattr(eager.EagerGradients, "__call__", then_stop)
    assert cli("train", *SMALL, *ALL, "--save_every=1000", "--out=run")[0] == 130
    records = [record for record in Folder("run").metrics() if "held_out_bound" in record]
    best = max(records, key=lambda record: record["held_out_bound"])
    assert len(records) == 3
    assert Folder("run").load("best")["samples_seen"] == best["samples_seen"]
    assert Folder("run").load()["early_stopping"]["best"] == best["held_out_bound"]


def test_averaged_weights_are_what_is_evaluated_and_said_so(cli):
    printed = train(cli, *ALL)
    assert "on test with averaged weights" in printed
    averaged, plain = aevb.load_run("run"), aevb.load_run("run", averaged=False)
    assert (averaged.averaged, plain.averaged) == (True, False)
    assert averaged.title.endswith("400 samples, averaged weights")
    assert plain.title.endswith("400 samples")
    state = Folder("run").load()["trainer"]
    for name, weight in averaged.model.named_parameters():
        assert torch.equal(weight, state["optimizer"]["averages"]["values"][f"model.{name}"])
    for name, weight in plain.model.named_parameters():
        assert torch.equal(weight, state["modules"]["model"][name])
    code, printed, errors = cli("evaluate", "run", "--num_samples=5", "--json")
    assert code == 0, errors
    told = [record for record in Folder("run").metrics() if "test_bound" in record][-1]["test_bound"]
    assert json.loads(printed)["bound"]["mean"] == pytest.approx(told)
    trainer = averaged.trainer()
    assert torch.equal(next(trainer.model.parameters()), next(plain.model.parameters()))
    train(cli, out="without")
    assert not aevb.load_run("without").averaged
    with pytest.raises(aevb.InputError, match="no averages of weights"):
        aevb.load_run("without", averaged=True)
    with pytest.raises(aevb.InputError, match="averaged"):
        aevb.load_run("run", averaged="no")


@pytest.mark.parametrize(
    "change",
    [
        lambda averages: averages.update(values={}),
        lambda averages: averages["values"].update(more=torch.zeros(1)),
        lambda averages: averages["values"].update({next(iter(averages["values"])): torch.zeros(1)}),
        lambda averages: averages["values"].update({next(iter(averages["values"])): 3}),
        lambda averages: next(iter(averages["values"].values())).fill_(float("nan")),
    ],
)
def test_crafted_averages_are_refused(cli, change):
    train(cli, *ALL)
    change_state("run", lambda state: change(state["trainer"]["optimizer"]["averages"]))
    with pytest.raises(aevb.InputError, match=r"last\.pt"):
        aevb.load_run("run")
    assert cli("train", "--resume=run", "--samples=800")[0] == 2


def test_the_length_of_cosine_adam_follows_the_samples(cli):
    train(cli, "--optimizer=CosineAdam", "--samples=3050")
    assert config_of()["optimizer"]["init_args"]["total_steps"] == 31  # 15 steps an epoch of 1,500
    trainer = aevb.load_run("run").trainer()
    assert trainer.step == 31
    assert trainer.engine.optimizer.param_groups[0]["total_steps"] == 31
    train(cli, "--optimizer=CosineAdam", "--batch_size=400", "--samples=3100", out="short")  # 400, 400, 400, 300
    assert config_of("short")["optimizer"]["init_args"]["total_steps"] == 9
    train(cli, "--optimizer=CosineAdam", "--optimizer.total_steps=100000", out="long")
    assert config_of("long")["optimizer"]["init_args"]["total_steps"] == 100_000
    train(cli, "--optimizer=CosineAdam", "--optimizer.total_steps=7", out="typed")
    assert config_of("typed")["optimizer"]["init_args"]["total_steps"] == 7
    assert cli("train", "--config=typed/config.yaml", "--samples=900", "--out=again")[0] == 0
    assert config_of("again")["optimizer"]["init_args"]["total_steps"] == 7


def test_steps_of_samples_are_those_that_a_training_takes():
    for samples in (1, 19, 20, 21, 50, 51, 100, 101, 999):
        step, seen = 0, 0
        while seen < samples:
            step += 1
            epochs, batches = divmod(step, 3)
            seen = epochs * 50 + batches * 20
        assert steps_of(samples, 50, 20) == step, samples


def test_a_plateau(cli):
    words = ["mode=max", "threshold_mode=abs", "threshold=100", "patience=0"]
    options = ["--scheduler=ReduceLROnPlateau", *(f"--scheduler.{word}" for word in words)]
    train(cli, *options, "--scheduler_every=report", "--optimizer=Adam", "--engine=eager")
    assert aevb.load_run("run").trainer().engine.optimizer.param_groups[0]["lr"] == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scheduler=StepLR"], "step_size"),
        (["--scheduler=Adam"], "scheduler"),
        (["--scheduler=ReduceLROnPlateau", "--scheduler_every=report"], "mode='max'"),
        (["--scheduler=ExponentialLR", "--scheduler.gamma=0.9", "--engine=svi"], "engine='svi' takes no scheduler"),
        (["--clip_norm=0"], "clip_norm must be positive"),
        (["--averaging=1"], "averaging must lie between 0 and 1"),
        (["--early_stopping=0"], "--early_stopping must be at least 1"),
        (["--early_stopping=3", "--held_out=1"], "held_out must lie between 0 and 1"),
        (["--held_out=0.1"], "--held_out is for --early_stopping"),
        (["--scheduler_every=minute"], "scheduler_every"),
    ],
)
def test_options_that_cannot_be_meant(cli, words, message):
    code, _, errors = cli("train", "--samples=100", "--hidden=4", "--latent_dim=2", "--out=run", *words)
    assert code == 2
    assert errors.count("\n") == 1
    assert message in errors
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("os.system", "Python's own"),
        ("torch.optim.Adam", "no LRScheduler"),
        (
            {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": "os.getpid"}},
            "takes a function",
        ),
        (3, "must be a class path"),
    ],
)
def test_a_configuration_that_names_something_else_is_not_followed(cli, named, message):
    train(cli)
    config = config_of()
    config["scheduler"] = named
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    for words in (["--resume=run"], ["--config=run/config.yaml", "--out=other"]):
        code, _, errors = cli("train", *words)
        assert (code, errors.count("\n")) == (2, 1)
        assert message in errors


@pytest.mark.parametrize(
    "state", [{"best": float("nan"), "waited": 0}, {"best": 1.0}, {"best": 1.0, "waited": -1}, [], None]
)
def test_a_crafted_patience_is_refused(cli, state):
    train(cli, *ALL)
    change_state("run", lambda saved: saved.update(early_stopping=state))
    code, _, errors = cli("train", "--resume=run", "--samples=800")
    assert (code, errors.count("\n")) == (2, 1)


def test_functions_of_ones_own_make_optimizer_and_scheduler(cli):
    Path("my_steps.py").write_text(
        "import torch\nfrom collections.abc import Iterable\nfrom typing import Any\n"
        "from torch.optim.lr_scheduler import LRScheduler, StepLR\n\n\n"
        "def make(params: Iterable[Any], lr: float = 0.01) -> torch.optim.Optimizer:\n"
        "    return torch.optim.Adam(params, lr=lr)\n\n\n"
        "def halve(optimizer: torch.optim.Optimizer) -> LRScheduler:\n    return StepLR(optimizer, 2, 0.5)\n"
    )
    train(cli, "--optimizer=my_steps.make", "--scheduler=my_steps.halve", "--engine=eager")
    code, _, errors = cli("train", "--resume=run", "--samples=800")
    assert code == 2
    assert "--trust my_steps" in errors
    assert cli("train", "--resume=run", "--samples=800", "--trust=my_steps")[0] == 0
    trainer = aevb.load_run("run", trust="my_steps").trainer()
    assert trainer.engine.optimizer.param_groups[0]["lr"] == 0.01 * 0.5**4
