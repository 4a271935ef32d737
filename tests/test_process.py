"""What there is one of in a process: threads take turns, and an interruption never cuts a step in two."""

import os
import signal
import threading
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.engines import captured as capture
from pyro_aevb.engines import eager as engines
from pyro_aevb.process import SIGNALS, Deferred, alone, shielded
from pyro_aevb.runs.folder import Folder
from tests.commands import SMALL, train
from tests.pairs import binary, plate
from tests.trainings import assert_equal, make, weights

# ---------------------------------------------------------------- threads


def in_threads(*functions):
    """Each function's result, all begun at once."""
    results, barrier = {}, threading.Barrier(len(functions))

    def call(i, function):
        barrier.wait()
        try:
            results[i] = function()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=call, args=each) for each in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[i] for i in range(len(functions))]


def trained(seed, engine="eager"):
    trainer = make(seed, weights=seed, engine=engine, report_every=50)
    list(trainer.run(400))
    return weights(trainer)


def evaluated(seed):
    trainer = make(seed, weights=seed)
    return evidence.importance_sampling(trainer.model, trainer.guide, binary(60), 20, seed=seed)


@pytest.mark.parametrize("engine", ["eager", "svi"])
def test_trainers_in_threads_train_as_alone(engine):
    functions = [partial(trained, seed, engine) for seed in range(6)]
    expected = [function() for function in functions]
    for found, right in zip(in_threads(*functions), expected, strict=True):
        assert_equal(found, right)


def test_evaluation_in_threads_is_as_alone():
    functions = [*(partial(evaluated, seed) for seed in range(3)), partial(trained, 0)]
    expected = [function() for function in functions]
    found = in_threads(*functions)
    for ours, right in zip(found[:3], expected[:3], strict=True):
        assert torch.equal(ours, right)
    assert_equal(found[3], expected[3])


def test_monte_carlo_em_and_ensemble_in_threads():
    def em():
        with aevb.seeded(0):
            prior, likelihood = aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 6, hidden=3)
            model = aevb.GenerativeModel(prior, likelihood, 60)
        trainer = aevb.MonteCarloEM(model, binary(60, dtype=torch.float32), batch_size=20, engine="eager", device="cpu")
        list(trainer.run(200))
        return {name: p.clone() for name, p in model.named_parameters()}

    def ensemble():
        trainers = [make(seed, weights=seed, engine="eager", batch_size=20) for seed in range(2)]
        list(aevb.Ensemble(trainers, compiled=False).run(200))
        return weights(trainers[1])

    expected = [em(), ensemble()]
    for found, right in zip(in_threads(em, ensemble), expected, strict=True):
        assert_equal(found, right)


def test_the_same_thread_may_enter_again():
    with alone(), alone():
        pass


# ---------------------------------------------------------------- interruptions


ADAM = partial(torch.optim.Adam, lr=0.01)


class Noisy(nn.Module):
    """A decoder with all that a step changes besides weights: running statistics, dropout's noise, a count."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
        self.calls, self.at, self.act = 0, None, None
        self.backwards = False

    def forward(self, z):
        self.calls += 1
        first = self.net[:3](z)
        x = self.net[3](first)
        if self.calls == self.at and self.backwards:
            first.register_hook(lambda _: self.act())  # when the last layer has its gradients
        elif self.calls == self.at:
            self.act()  # after the running statistics have moved
        return x


def pair_of(net):
    def model(x):
        pyro.module("net", net)
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1).to_event(1))
            pyro.sample("x", dist.Normal(net(z), 1).to_event(1), obs=x)

    return model


def noisy_training(engine):
    with aevb.seeded(0):
        net = Noisy()
        guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(1, 1, hidden=4))
    x = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    trainer = aevb.Trainer(pair_of(net), guide, x, aevb.estimators.SGVB(), ADAM, 20, engine=engine, device="cpu")
    return net, trainer


def interrupted_at(engine, steps, act, error, backwards=False):
    """Train 600 data, with something that happens in a step; what follows another ``run``."""
    net, trainer = noisy_training(engine)
    net.backwards = backwards
    begun = net.calls
    list(trainer.run(20))
    net.at, net.act = net.calls + steps * (net.calls - begun), act
    with pytest.raises(error):
        list(trainer.run(580))
    net.at = None
    list(trainer.run(600 - trainer.samples_seen))
    return net, trainer


def fail():
    raise ZeroDivisionError("in the middle of a step")


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_at_once():
    raise KeyboardInterrupt


@pytest.mark.parametrize("engine", ["eager", "svi"])
@pytest.mark.parametrize(
    ("act", "error"),
    [(interrupt, KeyboardInterrupt), (interrupt_at_once, KeyboardInterrupt), (fail, ZeroDivisionError)],
)
@pytest.mark.parametrize("steps", [1, 5, 17])
@pytest.mark.parametrize("backwards", [False, True])
def test_what_follows_an_interrupted_step_is_as_without(engine, act, error, steps, backwards):
    net, whole = noisy_training(engine)
    list(whole.run(600))
    other, again = interrupted_at(engine, steps, act, error, backwards)
    assert again.samples_seen == 600
    assert_equal(net.state_dict(), other.state_dict())
    one, two = whole.state_dict(), again.state_dict()
    assert torch.equal(one["noise"]["cpu"], two["noise"]["cpu"])
    assert torch.equal(one["gathered"]["losses"], two["gathered"]["losses"])


def test_ctrl_c_in_a_captured_training():
    def training():
        net, trainer = noisy_training("captured")
        trainer.engine.gradients.compiled = False
        return net, trainer

    net, whole = training()
    list(whole.run(600))
    other, again = training()
    list(again.run(20))
    original = again.engine.optimizer.step

    def then_step():
        if again.step == 9:
            interrupt()
        return original()

    again.engine.optimizer.step = then_step
    with pytest.raises(KeyboardInterrupt):
        list(again.run(580))
    assert again.step == 10  # the step was made whole first
    again.engine.optimizer.step = original
    list(again.run(400))
    assert_equal(net.state_dict(), other.state_dict())


def test_a_second_ctrl_c_does_not_wait_and_a_torn_update_is_refused():
    _, trainer = noisy_training("eager")
    saved = trainer.state_dict()
    step = trainer.engine.optimizer.step

    def twice():
        step()
        interrupt()
        interrupt()

    trainer.engine.optimizer.step = twice
    with pytest.raises(KeyboardInterrupt):
        list(trainer.run(100))
    trainer.engine.optimizer.step = step
    with pytest.raises(aevb.InputError, match="broke off in the middle of its update"):
        list(trainer.run(100))
    trainer.load_state_dict(saved)
    assert list(trainer.run(100))[-1].samples_seen == 100


@pytest.mark.parametrize("kind", ["em", "ensemble"])
def test_ctrl_c_waits_for_the_other_trainings_steps(kind, monkeypatch):
    def training():
        if kind == "ensemble":
            members = [make(seed, weights=seed, engine="eager", batch_size=20) for seed in range(2)]
            return members[0], aevb.Ensemble(members, compiled=False)
        with aevb.seeded(0):
            prior, likelihood = aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 6, hidden=3)
            model = aevb.GenerativeModel(prior, likelihood, 60)
        trainer = aevb.MonteCarloEM(model, binary(60, dtype=torch.float32), batch_size=20, engine="eager", device="cpu")
        return trainer, trainer

    member, whole = training()
    list(whole.run(400))
    expected = member.state_dict()["modules"]
    other, again = training()
    original, calls = type(again).take_steps, []

    def then_interrupt(self, *arguments):
        calls.append(interrupt() if len(calls) == 7 else None)
        original(self, *arguments)

    monkeypatch.setattr(type(again), "take_steps", then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        list(again.run(400))
    assert 0 < other.samples_seen < 400
    list(again.run(400 - other.samples_seen))
    for name, module in expected.items():
        assert_equal(module, other.state_dict()["modules"][name])


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    signals = Deferred()
    with signals:
        interrupt()
        assert signal.getsignal(signal.SIGINT) is not before
    with pytest.raises(KeyboardInterrupt):
        signals.deliver()
    assert signal.getsignal(signal.SIGINT) is before
    noisy_training("eager")
    assert signal.getsignal(signal.SIGINT) is before


# ---------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP"), (signal.SIGINT, 130, "interrupted")],
)
@pytest.mark.parametrize("step", [0, 3, 5])
def test_a_signal_to_end_saves_and_says_so(number, code, word, step, cli, monkeypatch):
    words = [*SMALL, "--samples=2000", "--engine=eager"]
    train(cli, *words, out="whole")
    original, taken = engines.EagerGradients.__call__, []

    def then_stop(self, visit):
        if len(taken) == step:
            os.kill(os.getpid(), number)
        taken.append(visit)
        return original(self, visit)

    monkeypatch.setattr(engines.EagerGradients, "__call__", then_stop)
    found, _, errors = cli("train", *words, "--out=cut")
    assert (found, errors.count("\n")) == (code, 1), errors
    assert word in errors
    assert f"{100 * (step + 1)} samples are saved, go on with: pyro-aevb train --resume cut\n" in errors
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert cli("train", "--resume=cut")[0] == 0
    for name in ("last", "best"):
        one, two = (Folder(path).load(name)["trainer"] for path in ("whole", "cut"))
        assert one["digest"] == two["digest"], name
    records = [[{**r, "seconds": 0} for r in Folder(path).metrics()] for path in ("whole", "cut")]
    assert records[0] == records[1]


def test_one_process_writes_a_run(cli, tmp_path):
    train(cli)
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("[!.]*.*")}
    with Folder("run").locked():
        code, _, errors = cli("train", "--resume=run", "--samples=800")
        assert (code, errors.count("\n")) == (2, 1)
        assert f"is being written by process {os.getpid()} on " in errors
        assert cli("evaluate", "run", "--num_samples=2")[0] == 0  # readers need no lock
    assert all(path.read_bytes() == content for path, content in before.items())
    assert cli("train", "--resume=run", "--samples=800")[0] == 0


def test_a_handler_that_returns_is_called_once_a_signal():
    calls, before = [], signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
    try:
        signals = Deferred()
        with signals:
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGTERM)
            signals.deliver()
        assert len(calls) == 3
        with signals:
            mine = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # set meanwhile, by somebody else
        assert mine is not signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_forked_process_has_a_lock_of_its_own():
    held, free = threading.Event(), threading.Event()

    def hold():
        with alone():
            held.set()
            free.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    if (pid := os.fork()) == 0:
        with alone():
            os._exit(0)
    free.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0


def test_where_files_cannot_be_locked(cli, monkeypatch, caplog):
    import errno

    from pyro_aevb import files

    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    train(cli)
    assert Folder("run").load()["samples_seen"] == 400
    assert "no file can be locked" in caplog.text


def test_ctrl_c_waits_for_what_is_compiled():
    """A terminal sends it to the compiler too, which would leave other code."""
    with shielded():
        child = os.fork()
        if child == 0:
            os._exit(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_a_step_is_recorded_where_ctrl_c_does_not_reach_the_compiler(monkeypatch):
    masks, original = [], capture.record

    def record(*arguments, **options):
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
        return original(*arguments, **options)

    monkeypatch.setattr(capture, "record", record)
    _, trainer = noisy_training("captured")
    trainer.engine.gradients.compiled = False
    list(trainer.run(20))
    assert len(masks) == 1
    assert set(SIGNALS) <= masks[0]
