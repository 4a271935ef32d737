"""What a pair is made of is found by running it: switched, moved, saved and put back; nothing else is touched."""

import copy
import gc
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import nn

import pyro_aevb as aevb
from pyro_aevb import evidence, traces
from pyro_aevb.estimators import SGVB
from pyro_aevb.pairs import modules_named_by, without_a_trace
from pyro_aevb.states import sealed
from tests.pairs import binary, paper_pair, q, std
from tests.trainings import assert_equal

ADAM = partial(torch.optim.Adam, lr=1e-2)


class Net(nn.Module):
    """A dropout, a state, and a weight of its own."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(1), nn.Dropout(0.5)
        self.weight = nn.Parameter(torch.ones(1))
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def forward(self, z):
        if self.training:
            self.count += 1
        return self.drop(self.norm(z)) * self.weight


class Plain:
    """No module, with modules in attributes, and a model as a method."""

    def __init__(self, net):
        self.dec, self.name = net, "plain"

    def model(self, x):
        std(x, self.dec)


class Callable:
    """An object that is a function."""

    def __init__(self, net):
        self.inside = {"nets": [net]}

    def __call__(self, x):
        std(x, self.inside["nets"][0])


NET = Net()  # a global that helper() reads
dec = nn.Linear(7, 7)  # a global that shares the name of Plain's attribute, and is no part of anything


def helper(z):
    return NET(z)


def handlers(net):
    m = partial(std, f=net)
    mask = torch.tensor(True)
    return {
        "scale": poutine.scale(m, 1.0),
        "mask": poutine.mask(m, mask=mask),
        "condition": poutine.condition(m, data={"nothing": torch.zeros(())}),
        "enumerate": config_enumerate(m),
        "block": poutine.block(m, hide=["nothing"]),
        "two": poutine.scale(poutine.mask(m, mask=mask), 1.0),
        "lambda in a handler": poutine.scale(lambda x: std(x, net), 1.0),
        "partial": partial(lambda x, net: std(x, net), net=net),
        "partial by place": partial(lambda net, x: std(x, net), net),
        "partial of a partial": partial(partial(lambda x, net, k: std(x, net), k=3), net=net),
        "plain class": Plain(net).model,
        "callable": Callable(net),
        "dict": _closure({"net": net}, lambda held: held["net"]),
        "list": _closure([net], lambda held: held[0]),
        "nested lambda": (lambda f: lambda x: (lambda: std(x, f))())(lambda z: net(z)),
        "default": _default(net),
        "forward": lambda x: std(x, net.forward),
        "hidden": _hidden(net),
    }


def _closure(held, get):
    return lambda x: std(x, get(held))


def _default(net):
    def model(x, f=net):
        std(x, f)

    return model


class _Slots:
    __slots__ = ("f",)

    def __init__(self, f):
        self.f = f


def _hidden(net):
    held = _Slots(net)  # no walk through attributes finds it
    return lambda x: std(x, held.f)


KINDS = sorted(handlers(Net()))


@pytest.mark.parametrize("kind", [*KINDS, "helper"])
def test_what_takes_part_is_evaluated_saved_and_put_back(kind):
    """Dropout off in evaluation, running statistics as they were, all buffers in the state, resumed bit for bit."""
    x = torch.randn(40, 1, generator=torch.Generator().manual_seed(0)) * 2

    def pair():
        net = NET if kind == "helper" else Net()
        model = (lambda x: std(x, helper)) if kind == "helper" else handlers(net)[kind]
        return net, model, lambda x: (pyro.module("net", net), q(x))[1]

    net, model, guide = pair()
    net.load_state_dict(Net().state_dict())
    net.norm.running_mean.fill_(0.3)
    before = copy.deepcopy(net.state_dict())
    draws = [evidence.importance_sampling(model, q, x, 300, seed=s) for s in (0, 0)]
    with torch.no_grad():
        net.eval()
        z = torch.linspace(-8, 8, 2000).unsqueeze(-1)
        logs = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(net(z), 1.0).log_prob(x.T)
        exact = logs.logsumexp(0) + torch.tensor(16 / 1999).log()
        net.train()
    assert torch.equal(*draws)
    assert (draws[0] - exact).abs().mean() < 0.02
    assert_equal(before, net.state_dict())
    assert net.training

    net.count.zero_()
    trainer = aevb.Trainer(model, guide, x, SGVB(), ADAM, 20, engine="eager", device="cpu")
    assert_equal(before, net.state_dict())  # making a trainer leaves no trace
    assert net.count == 0
    list(trainer.run(200))
    state = copy.deepcopy(trainer.state_dict())
    middle = copy.deepcopy(net.state_dict())
    assert net.norm.num_batches_tracked == 10
    list(trainer.run(200))
    end, count = copy.deepcopy(net.state_dict()), net.count.clone()
    assert not torch.equal(end["norm.running_mean"], middle["norm.running_mean"])

    other, model, guide = pair()
    resumed = aevb.Trainer(model, guide, x, SGVB(), ADAM, 20, engine="eager", device="cpu")
    resumed.load_state_dict(state)
    assert_equal(middle, other.state_dict())
    list(resumed.run(200))
    assert_equal(end, other.state_dict())
    assert torch.equal(other.count, count)  # what is not persistent too


def test_an_unrelated_global_of_the_same_name_is_no_part():
    """``self.dec`` and a global ``dec``: it was moved, switched, and overwritten on resume."""
    plain = Plain(Net())
    model = plain.model
    guide = lambda x: (pyro.module("net", plain.dec), q(x))[1]  # noqa: E731
    x = torch.randn(40, 1)
    trainer = aevb.Trainer(model, guide, x, SGVB(), ADAM, 20, engine="eager", device="cpu")
    assert all(module is not dec for module in trainer.modules.values())
    state = trainer.state_dict()
    with torch.no_grad():
        dec.weight.fill_(3.0)
    trainer.load_state_dict(state)
    assert (dec.weight == 3).all()


def test_a_module_in_reach_that_does_not_run_is_no_part():
    used, unused = Net(), Net()
    nets = {"used": used, "unused": unused}
    modules = traces.modules_of(lambda x: std(x, nets["used"]), q, (torch.zeros(3, 1),))
    assert list(modules.values()) == [used]
    assert list(modules) == ["model.nets.used"]


def test_names_are_the_same_in_every_process():
    """By attribute, key and variable; what no name leads to by its class."""
    named = {kind: list(traces.modules_of(model, q, (torch.zeros(3, 1),))) for kind, model in handlers(Net()).items()}
    assert named["scale"] == ["model.f"]
    assert named["plain class"] == ["model.self.dec"]
    assert named["callable"] == ["model.inside.nets.0"]
    assert named["hidden"] == ["model.Net"]
    assert named["dict"] == ["model.held.net"]


class Quiet(nn.Module):
    """Uses its part's weight and function, and never calls it."""

    def __init__(self):
        super().__init__()
        self.map = nn.Linear(1, 1)

    def model(self, x):
        std(x, lambda z: nn.functional.linear(z, self.map.weight, self.map.bias))


def test_a_module_whose_weight_alone_is_used_is_found():
    linear, drop = nn.Linear(1, 1), nn.Dropout(0.5)
    held = _Slots((linear, drop))

    def model(x):
        std(x, lambda z: held.f[1].forward(z @ held.f[0].weight.T))

    modules = traces.modules_of(model, q, (torch.zeros(3, 1),))
    assert {type(m) for m in modules.values()} == {nn.Linear, nn.Dropout}
    quiet = Quiet()
    assert list(traces.modules_of(quiet.model, q, (torch.zeros(3, 1),)).values()) == [quiet]


def test_evaluation_of_the_packages_own_model_in_a_handler_has_no_dropout():
    network = lambda i, o: nn.Sequential(nn.Linear(i, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, o))  # noqa: E731
    model, guide = paper_pair(dtype=torch.float32, network=network)
    x = binary(20, dtype=torch.float32)
    plain = evidence.bound(model, guide, x, 50)
    wrapped = evidence.bound(poutine.scale(model, 1.0), poutine.mask(guide, mask=torch.tensor(True)), x, 50)
    torch.testing.assert_close(plain.bound, wrapped.bound)
    model.eval()
    torch.testing.assert_close(plain.bound, evidence.bound(model, guide, x, 50).bound)


def test_a_profiler_at_work_is_left_alone(monkeypatch):
    """``sys.setprofile`` is somebody else's: calls of modules tell which take part."""
    import cProfile

    net = Net()
    profile = cProfile.Profile()
    profile.enable()
    try:
        modules = traces.modules_of(handlers(net)["hidden"], q, (torch.zeros(3, 1),))
    finally:
        profile.disable()
    assert list(modules.values()) == [net]
    assert profile.getstats()


def test_another_threads_modules_are_not_switched():
    """A hook of torch is global: what runs in another thread is none of the pair's."""
    import threading

    other, seen = nn.Dropout(0.5), []
    started, done = threading.Event(), threading.Event()

    def elsewhere():
        started.wait()
        other(torch.ones(3))
        seen.append(other.training)
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()

    def model(x):
        started.set()
        done.wait()
        std(x, lambda z: z)

    evidence.bound(model, q, torch.zeros(3, 1))
    thread.join()
    assert seen == [True]


class Late(nn.Module):
    """Comes to use another part after its first runs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(1, 1)
        self.turns = 0


LATE = nn.BatchNorm1d(1)


def test_a_module_that_comes_later_is_evaluated_and_saved():
    late, held = Late(), _Slots(nn.BatchNorm1d(1))

    def model(x):
        pyro.module("late", late)
        late.turns += 1
        std(x, held.f if late.turns > 30 else late.first)

    x = torch.randn(40, 1)
    trainer = aevb.Trainer(model, q, x, SGVB(), ADAM, 20, engine="eager", device="cpu")
    list(trainer.run(2000))
    assert any(module is held.f for module in trainer.modules.values())
    assert any("running_mean" in state for state in trainer.state_dict()["modules"].values())
    with trainer.param_store():
        running = held.f.running_mean.clone()
        assert torch.equal(*(evidence.bound(model, q, x).bound for _ in range(2)))
        assert torch.equal(running, held.f.running_mean)


def test_a_parameter_that_comes_later_is_refused_by_name():
    turns = []

    def model(x):
        turns.append(0)
        if len(turns) > 30:
            pyro.param("late", torch.tensor(1.0))
        std(x, lambda z: z * pyro.param("a", torch.tensor(1.0)))

    trainer = aevb.Trainer(model, q, torch.randn(40, 1), SGVB(), ADAM, 20, engine="eager", device="cpu")
    with pytest.raises(aevb.InputError, match="'late' appeared after the first step"):
        list(trainer.run(2000))


class Counting(SGVB):
    """A user's estimator that keeps a running mean, and a network."""

    def __init__(self):
        super().__init__()
        self.mean, self.net, self.kept = torch.zeros(()), nn.Linear(1, 1), {"square": torch.zeros(2)}

    def differentiable_loss(self, model, guide, *args):
        loss = super().differentiable_loss(model, guide, *args)
        with torch.no_grad():
            self.mean.mul_(0.9).add_(0.1 * loss.detach())
            self.kept["square"] += 1
        return loss


def test_an_estimators_own_tensors_survive_a_resume_or_are_named_as_lost():
    def made(estimator):
        with aevb.seeded(0):
            pair = paper_pair(dtype=torch.float32)
        data = binary(60, dtype=torch.float32)
        return aevb.Trainer(*pair, data, estimator, ADAM, 20, engine="eager", device="cpu")

    whole = made(Counting())
    list(whole.run(400))
    first = made(Counting())
    list(first.run(200))
    state = first.state_dict()
    second = made(Counting())
    second.load_state_dict(state)
    list(second.run(200))
    assert torch.equal(second.estimator.mean, whole.estimator.mean)
    assert torch.equal(second.estimator.kept["square"], whole.estimator.kept["square"])
    state["own"] = {}
    state = sealed(state)
    with pytest.warns(UserWarning, match=r"has no tensors of the estimator: \.kept\.square, \.mean"):
        made(Counting()).load_state_dict(state)


def test_names_in_the_text_are_those_of_earlier_versions():
    """Saved states name modules so."""
    vae = nn.Sequential(nn.Linear(1, 1))
    assert list(modules_named_by(vae, lambda x: vae(x))) == ["model"]
    assert list(modules_named_by(lambda x: vae(x), q)) == ["model.vae"]
    assert list(modules_named_by(Quiet().model, q)) == ["model.self"]


def test_captured_and_eager_move_buffers_alike():
    ends = []
    for engine in ("eager", "captured"):
        with aevb.seeded(0):
            net = Net()
        net.drop.p = 0.0
        guide = lambda x, net=net: (pyro.module("net", net), q(x))[1]  # noqa: E731
        x = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
        trainer = aevb.Trainer(
            poutine.scale(partial(std, f=net), 1.0), guide, x, SGVB(), ADAM, 20, engine=engine, device="cpu"
        )
        if engine == "captured":
            trainer.engine.gradients.compiled = False
        list(trainer.run(300))
        ends.append({**net.state_dict(), "count": net.count})
    assert_equal(*ends)


def test_what_python_throws_away_meanwhile_takes_no_part():
    """To close a generator of a module that nobody holds any more is a call with that module as its first argument."""
    stranger = torch.nn.Linear(3, 7)
    gc.collect()
    gc.disable()
    try:
        garbage = [stranger.parameters()]
        next(garbage[0])
        garbage.append(garbage)
        del garbage
    finally:
        gc.enable()
    with without_a_trace() as seen:
        assert len([[] for _ in range(1_000_000)]) == 1_000_000  # as many as make Python look for garbage
    assert not seen
    assert gc.isenabled()
