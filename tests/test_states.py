"""A state is used whole and as it was saved, or refused by name before any of it is used."""

import json
import logging
import math
import random
import warnings
import zipfile
from functools import partial

import pytest
import torch

import pyro_aevb as aevb
from pyro_aevb.files import load_tensors
from pyro_aevb.runs.folder import Folder
from pyro_aevb.states import DIGEST, check_plain, digest_of, sealed
from tests.commands import change_state, train
from tests.pairs import binary
from tests.trainings import make

ADAM, ADAGRAD = (partial(each, lr=0.01) for each in (torch.optim.Adam, aevb.optimizers.Adagrad))


def trained(optimizer=ADAGRAD, engine="eager"):
    trainer = make(optimizer=optimizer, engine=engine)
    list(trainer.run(100))
    return trainer


def refused(trainer, state, message):
    """By one line, and nothing has changed."""
    before = trainer.state_dict()
    with pytest.raises(aevb.InputError, match=message) as error:
        trainer.load_state_dict(state)
    assert "\n" not in str(error.value)
    assert trainer.state_dict()[DIGEST] == before[DIGEST]


# ---------------------------------------------------------------- what the optimizer holds

MOMENTS = {
    "of another shape": lambda t: torch.zeros(3),
    "one number": lambda t: torch.zeros((), dtype=t.dtype),
    "one number said to be 4 TB": lambda t: torch.zeros(1).expand(10**6, 10**6),
    "one number said to be its shape": lambda t: torch.zeros((), dtype=t.dtype).expand(t.shape),
    "one more row": lambda t: torch.cat([t, t[:1]]),
    "transposed": lambda t: t.T.contiguous(),
    "in another order": lambda t: t.T.contiguous().T,
    "integers": lambda t: t.long(),
    "another precision": lambda t: t.float(),
    "complex": lambda t: t.to(torch.complex128),
    "sparse": lambda t: t.to_sparse(),
    "without memory": lambda t: t.to("meta"),
    "NaN": lambda t: torch.full_like(t, math.nan),
    "infinite": lambda t: torch.full_like(t, math.inf),
    "a number": lambda t: 3.0,
    "text": lambda t: "sum",
    "None": lambda t: None,
}


@pytest.mark.parametrize("optimizer", [ADAGRAD, ADAM])
@pytest.mark.parametrize("engine", ["eager", "svi"])
@pytest.mark.parametrize("case", MOMENTS)
def test_a_moment_that_is_not_its_parameters(case, engine, optimizer):
    """A fused optimizer reads past the end of it: a segmentation fault, or numbers from elsewhere."""
    trainer = trained(optimizer, engine)
    state = trainer.state_dict()
    whole = state["optimizer"] if engine == "eager" else next(iter(state["optimizer"].values()))
    entry = next(each for each in whole["state"].values() if max(t.dim() for t in each.values()) == 2)
    name = next(name for name, tensor in entry.items() if tensor.dim() == 2)
    entry[name] = MOMENTS[case](entry[name])
    try:
        state = sealed(state)
    except (RuntimeError, NotImplementedError):
        assert case in ("sparse", "without memory", "one number said to be 4 TB")
    refused(trainer, state, "state|optimizer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.update(state={}), "has no state, though steps were taken"),
        (lambda o: o["state"].update({99: o["state"][0]}), "a state of parameter 99"),
        (lambda o: o["state"].update({-1: o["state"][0]}), "a state of parameter -1"),
        (lambda o: o["state"].update({"0": o["state"][0]}), "a state of parameter '0'"),
        (lambda o: o["state"][0].pop("sum"), "another optimizer"),
        (lambda o: o["state"][0].update(exp_avg=o["state"][0]["sum"]), "another optimizer"),
        (lambda o: o["state"].update({0: None}), "another optimizer"),
        (lambda o: o["param_groups"][0].update(lr="a"), "optimizer lr is a, where"),
        (lambda o: o["param_groups"][0].update(lr=math.nan), "optimizer lr is nan"),
        (lambda o: o["param_groups"][0].update(lr=True), "optimizer lr is True"),
        (lambda o: o["param_groups"][0].update(lr=None), "optimizer lr is None"),
        (lambda o: o["param_groups"][0].update(lr=10**400), "optimizer lr is 1000"),
        (lambda o: o["param_groups"][0].update(params=[0]), "do not hold the pair's parameters"),
        (lambda o: o["param_groups"].append(o["param_groups"][0]), "2 groups of parameters, not 1"),
        (lambda o: o.update(param_groups=[]), "0 groups of parameters, not 1"),
        (lambda o: o.update(param_groups=[None]), "do not hold the pair's parameters"),
        (lambda o: o["state"][0]["step"].fill_(-1), "less than 0"),
        (lambda o: o["param_groups"][0].update(new=3, lr="a"), "optimizer lr is a"),
        (lambda o: o.clear(), "state's state is of type NoneType"),
    ],
)
def test_an_optimizers_state_that_it_cannot_have(change, message):
    trainer = trained()
    state = trainer.state_dict()
    change(state["optimizer"])
    refused(trainer, sealed(state), message)


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.SGD,
        torch.optim.RMSprop,
        torch.optim.Adafactor,
        torch.optim.NAdam,
        torch.optim.Rprop,
        torch.optim.ASGD,
    ],
)
def test_other_optimizers_go_on(optimizer):
    """Some keep factors of a moment, some nothing at all: what they keep, they show."""
    first, second = (make(optimizer=partial(optimizer, lr=1e-3)) for _ in range(2))
    list(first.run(100))
    second.load_state_dict(first.state_dict())
    ends = [list(trainer.run(100))[-1].bound for trainer in (first, second)]
    assert ends[0] == ends[1]


def test_an_optimizer_with_momentum_and_channels_last():
    """Moments lie in memory as their parameters do."""

    class Images(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)
            self.out = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.out(self.conv(x.view(-1, 2, 2, 2).float()).flatten(1))

    def training(engine="eager"):
        with aevb.seeded(0):
            guide = aevb.guides.DiagonalNormal(8, 1, network=lambda i, o: Images())
            likelihood = aevb.likelihoods.Bernoulli(1, 8, hidden=3)
        model = aevb.GenerativeModel(aevb.priors.StandardNormal(1), likelihood, 60)
        x = binary(60, 8, dtype=torch.float32)
        return aevb.Trainer(
            model, aevb.RecognitionModel(guide, 60), x, optimizer=ADAM, batch_size=20, engine=engine, device="cpu"
        )

    first, second = training(), training()
    assert not any("$$$" in name for name in first.parameters)  # a copy that Pyro's store keeps
    list(first.run(100))
    second.load_state_dict(first.state_dict())
    for trainer in (first, second):
        list(trainer.run(100))
    assert first.state_dict()[DIGEST] == second.state_dict()[DIGEST]
    with pytest.raises(aevb.InputError, match=r"conv\.weight is not contiguous"):
        training("svi")  # where it did not train at all, without a word


# ---------------------------------------------------------------- the rest of a state


POSSIBLE = {"captured": True, "step": 0, "own": {}}


@pytest.mark.parametrize("value", [None, {}, [], "", 0, -1, 1.5, "a", True, math.nan, {"a": 1}, [1], torch.zeros(3)])
@pytest.mark.parametrize(
    "key",
    ["step", "noise", "gathered", "identity", "modules", "optimizer", "captured", "format", "kind", "settings", "own"],
)
def test_a_part_of_a_state_that_is_something_else(key, value):
    trainer = trained()
    state = trainer.state_dict()
    if any(key == possible and type(value) is type(one) and value == one for possible, one in POSSIBLE.items()):
        return  # which a state may say; that it is another one the digest tells
    state[key] = value
    refused(trainer, sealed(state), "")
    refused(trainer, state, "")


@pytest.mark.parametrize("key", ["step", "captured"])
def test_a_state_that_was_changed(key):
    trainer = trained()
    refused(trainer, {**trainer.state_dict(), key: 0 if key == "step" else True}, "not as it was saved")
    refused(trainer, {k: v for k, v in trainer.state_dict().items() if k != DIGEST}, "not as it was saved")


@pytest.mark.parametrize("change", [torch.Tensor.long, torch.Tensor.half, lambda w: w * math.nan, lambda w: w[:1]])
def test_weights_that_are_something_else(change, cli):
    trainer = trained()
    state = trainer.state_dict()
    weights = state["modules"]["model"]
    name = next(name for name, weight in weights.items() if weight.dim() == 2)
    weights[name] = change(weights[name]).clone()
    refused(trainer, sealed(state), name)

    def of_run(state):
        weights = state["trainer"]["modules"]["model"]
        name = next(name for name, weight in weights.items() if weight.dim() == 2)
        weights[name] = change(weights[name]).clone()

    train(cli)
    change_state("run", of_run)
    for words in (("evaluate", "run"), ("plot", "run"), ("train", "--resume=run", "--samples=800")):
        code, _, errors = cli(*words)
        assert (code, errors.count("\n")) == (2, 1), errors


def test_the_other_format_opens_with_one_line(caplog):
    """States of earlier versions carry no digest."""
    trainer, other = trained(), make(optimizer=ADAGRAD)
    later = ("kind", "settings", "own", DIGEST)
    state = {k: v for k, v in trainer.state_dict().items() if k not in later}
    state.update(format="pyro_aevb training state 2", estimator={})
    with caplog.at_level(logging.WARNING):
        other.load_state_dict(state)
    assert [record.getMessage().count("carries no digest") for record in caplog.records] == [1]
    assert other.state_dict()[DIGEST] == trainer.state_dict()[DIGEST]


@pytest.mark.parametrize(
    "change",
    [{"matmul": "sloppy"}, {"threads": 0}, {"threads": 10**9}, {"threads": True}, {"lossy": 1}, {"device": None}],
)
def test_settings_of_the_processor_that_are_none(change):
    trainer = trained()
    state = trainer.state_dict()
    state["settings"].update(change)
    refused(trainer, sealed(state), "settings|state's")


def test_a_whole_number_that_no_float_holds():
    trainer = trained()
    state = trainer.state_dict()
    state["optimizer"]["param_groups"][0]["eps"] = -(2**70)
    refused(trainer, sealed(state), "eps")


def test_a_digest_is_of_values_and_names():
    one = {"a": torch.arange(3.0), "b": [1, 2.5, "x", None], 3: {"c": True}}
    assert digest_of(one) == digest_of({3: {"c": True}, "b": [1, 2.5, "x", None], "a": torch.arange(3.0).clone()})
    others = [
        {**one, "a": torch.arange(3.0).double()},
        {**one, "a": torch.arange(3.0).view(1, 3)},
        {**one, "a": -torch.arange(3.0)},
        {**one, "b": [1, 2.5, "x"]},
        {**one, "b": [1.0, 2.5, "x", None]},
        {**one, "b": [1, 2.5, "x", "None"]},
        {**one, 3: {"c": 1}},
        {"a": one["a"], "b": one["b"], "3": one[3]},
    ]
    assert len({digest_of(each) for each in (one, *others)}) == 9
    assert digest_of(torch.zeros(2, dtype=torch.bfloat16)) != digest_of(torch.zeros(2, dtype=torch.float16))


# ---------------------------------------------------------------- files


def test_a_flipped_bit_is_refused_or_changes_nothing(cli):
    """Of single bits of ``last.pt`` three in four gave other numbers."""
    train(cli)
    path, whole = Folder("run").path / "last.pt", (Folder("run").path / "last.pt").read_bytes()
    expected, rng = Folder("run").load()["digest"], random.Random(0)
    for _ in range(300):
        damaged, where = bytearray(whole), rng.randrange(len(whole))
        damaged[where] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            assert Folder("run").load()["digest"] == expected, where
        except aevb.InputError as error:
            said = str(error)
            assert "last.pt" in said


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"a": ' * 50_000 + b"\n",
        b"[]\n",
        b"3\n",
        b"\n",
        b'{"samples_seen": "a"}\n',
        b'{"samples_seen": -1, "bound": 1.0}\n',
        b'{"samples_seen": 1.5, "bound": 1.0}\n',
        b'{"samples_seen": true, "bound": 1.0}\n',
        b'{"samples_seen": 100, "bound": "a"}\n',
        b'{"samples_seen": 100, "bound": null}\n',
        b'{"samples_seen": 100, "bound": [1]}\n',
        b'{"samples_seen": 100, "bound": NaN}\n',
        b'{"samples_seen": 100, "bound": Infinity}\n',
        b'{"samples_seen": 100, "bound": 1e999}\n',
        b'{"samples_seen": 100, "bound": 1' + b"0" * 400 + b"}\n",
        b'{"samples_seen": 100, "bound": 1.0, "another": 2}\n',
        b'{"samples_seen": 100, "bound": 1.0, "crc32": 5}\n',
        b'{"samples_seen": 100, "bound": 1.0} 3',
    ],
)
def test_a_line_of_metrics_that_is_none(line, cli, tmp_path):
    train(cli)
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(line)
    for words in (("plot", "run"), ("train", "--resume=run", "--samples=800")):
        code, _, errors = cli(*words)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert "metrics.jsonl was changed or damaged" in errors


def test_lines_of_metrics_hold_together(cli, tmp_path):
    """None can be changed, left out, doubled or exchanged; those of earlier versions, without checksums, are read."""
    train(cli)
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    records = Folder("run").metrics()
    assert len(lines) == len(records) == 6
    for other in (lines[1:], lines[:2] + lines[3:], lines[:1] + lines, lines[::-1]):
        path.write_text("".join(other))
        with pytest.raises(aevb.InputError, match=r"line [12345] of"):
            Folder("run").metrics()
    path.write_text("".join(lines[:3]))  # as a kill may leave it
    assert Folder("run").metrics() == records[:3]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert Folder("run").metrics() == records
    assert cli("train", "--resume=run", "--samples=800")[0] == 0
    assert "crc32" in path.read_text().splitlines()[0]


@pytest.mark.parametrize("name", ["config.yaml", "last.pt", "metrics.jsonl", "data"])
def test_a_pipe_is_not_waited_for(name, cli, tmp_path):
    import os

    train(cli)
    path = tmp_path / ("data.npy" if name == "data" else f"run/{name}")
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    words = ("train", "--data=data.npy", "--out=other") if name == "data" else ("plot", "run")
    code, _, errors = cli(*words)
    assert (code, errors.count("\n")) == (2, 1), errors


def test_too_much_is_refused_before_it_is_asked_for(cli, tmp_path):
    import numpy as np

    train(cli)
    for shape in ((10**12, 0), (10**12, 3), (0, 3), (3, 0)):
        with (tmp_path / "data.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for words in (["--data=data.npy"],):
            assert cli("train", *words, "--out=other")[0] == 2
    for words in (
        ("sample", "run", "--count=100000000000"),
        ("plot", "run", "--side=1000000"),
        ("train", "--hidden=[1000000000000]", "--out=other"),
        ("train", "--latent_dim=1000000000000", "--out=other"),
    ):
        code, _, errors = cli(*words)
        assert (code, errors.count("\n")) == (2, 1), errors
        assert "memory" in errors


@pytest.mark.parametrize("option", ["resume", "config"])
@pytest.mark.parametrize("words", [["--{}="], ["--{}", ""]])
def test_an_unset_variable_of_the_shell(option, words, cli, tmp_path):
    """It started a training of a million samples."""
    code, _, errors = cli("train", *(word.format(option) for word in words))
    assert (code, errors.count("\n")) == (2, 1)
    assert f"--{option} needs a value: was a variable of the shell not set?" in errors
    assert not list(tmp_path.iterdir())


def test_nothing_is_said_twice():
    """Warnings of torch about files that it was given do not reach the user."""
    trainer = trained()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.load_state_dict(trainer.state_dict())


# ---------------------------------------------------------------- optimizers of one's own


class Lookahead(torch.optim.SGD):
    """Keeps something beside its state, which a copy does not have."""

    def __init__(self, parameters, lr=0.01):
        super().__init__(parameters, lr=lr)
        self.seen = []

    def step(self, closure=None):
        self.seen.append(1)
        return super().step(closure)


class Late(torch.optim.SGD):
    """Begins to keep a number at its third step."""

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["n"] = state.get("n", torch.tensor(0.0)) + 1
                if state["n"] > 2:
                    state["mean"] = p.detach().clone()
        return super().step(closure)


class Strict(torch.optim.SGD):
    """Refuses gradients of zero."""

    def step(self, closure=None):
        if all((p.grad == 0).all() for group in self.param_groups for p in group["params"]):
            raise ValueError("zero gradient")
        return super().step(closure)


@pytest.mark.parametrize("optimizer", [Lookahead, Late, Strict])
def test_optimizers_of_ones_own_go_on(optimizer):
    first, second = (make(optimizer=partial(optimizer, lr=1e-3)) for _ in range(2))
    list(first.run(200))
    noise = torch.get_rng_state()
    second.load_state_dict(first.state_dict())
    assert torch.equal(noise, torch.get_rng_state())
    assert list(first.run(100))[-1].bound == list(second.run(100))[-1].bound
    if optimizer is Late:
        state = first.state_dict()
        state["optimizer"]["state"][0]["mean"] = torch.zeros(3)
        refused(second, sealed(state), "optimizer state 0.mean")


def test_a_schedule_of_pyros_goes_on():
    import pyro.optim

    def training():
        schedule = pyro.optim.ReduceLROnPlateau({"optimizer": torch.optim.SGD, "optim_args": {"lr": 1e-3}})
        return make(optimizer=schedule, engine="svi")

    first, second = training(), training()
    list(first.run(100))
    second.load_state_dict(first.state_dict())
    assert second.state_dict()[DIGEST] == first.state_dict()[DIGEST]


def test_settings_that_this_optimizer_does_not_have():
    """Of another version of torch, say: they are looked at no further."""
    trainer = trained()
    state = trainer.state_dict()
    state["optimizer"]["param_groups"][0]["betas"] = 3
    trainer.load_state_dict(sealed(state))


def test_containers_deeper_than_python_goes():
    deep, cyclic = [], []
    for _ in range(100_000):
        deep = [deep]
    cyclic.append(cyclic)
    for value in (deep, {"a": deep}, cyclic):
        with pytest.raises(aevb.InputError, match="levels of them"):
            check_plain(value, "state")
    while deep:  # Python's own end of it would go as deep
        deep = deep.pop()


def test_a_damaged_members_name_is_told_in_one_line(tmp_path):
    path = tmp_path / "state.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tensor\n\x1b[31m", b"0" * 50)
    path.write_bytes(path.read_bytes().replace(b"0" * 50, b"1" * 50))
    with pytest.raises(aevb.InputError) as error:
        load_tensors(path)
    assert str(error.value).isprintable(), str(error.value)


def test_no_flipped_bit_of_an_archives_index_gives_other_arrays(tmp_path):
    """One ended the list: of train and test sets the first alone was left, which was split anew."""
    import numpy as np

    from pyro_aevb.data import load

    path, rows = tmp_path / "data.npz", np.random.default_rng(0).random((20, 3)).astype(np.float32)
    np.savez(path, train=rows[:15], test=rows[15:])
    whole = path.read_bytes()
    index = whole.index(b"PK\x01\x02")
    same = 0
    for where in range(index, len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[where] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                found = load(str(path))
            except aevb.InputError:
                continue
            same += 1
            assert np.array_equal(found.train.numpy(), rows[:15]), (where, bit)
            assert np.array_equal(found.test.numpy(), rows[15:]), (where, bit)
    assert 0 < same < 8 * (len(whole) - index) / 2  # dates and attributes


def test_another_test_set_is_refused(cli):
    """The training data alone were compared: evaluation told of other images."""
    import numpy as np

    rows = np.random.default_rng(0).random((300, 4))
    np.savez("data.npz", train=rows[:200], test=rows[200:])
    train(cli, "--data=data.npz")
    np.savez("data.npz", train=rows[:200], test=1 - rows[200:])
    for words in (("evaluate", "run"), ("train", "--resume=run", "--samples=800")):
        code, _, errors = cli(*words)
        assert (code, errors.count("\n")) == (2, 1)
        assert "is not what run was trained on" in errors
