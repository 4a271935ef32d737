"""Rows of files and of streamed data sets: bit for bit what the same data in memory give."""

import hashlib
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

import pyro_aevb as aevb
from pyro_aevb import InputError
from pyro_aevb.data import DynamicBinarization, batches, fingerprint, mapped, stored
from pyro_aevb.data.mapped import Mapped, is_mapped, map_file
from pyro_aevb.data.streamed import Streamed
from pyro_aevb.training.ensemble import Ensemble
from tests.pairs import binary, plate
from tests.training.test_monte_carlo_em import make_model, principal_components
from tests.trainings import assert_equal, make, weights

GREY = torch.rand(60, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def file(tmp_path):
    """Function that writes an array and maps it."""

    def written(array, mode="r", name="x.npy"):
        np.save(tmp_path / name, array)
        return np.load(tmp_path / name, mmap_mode=mode)

    return written


class Rows(Dataset):
    """Rows of tensors in memory, one by one, made of them as ``make`` says."""

    def __init__(self, *tensors, make=lambda *row: row[0] if len(row) == 1 else row):
        self.parts = tensors
        self.make = make

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, i):
        return self.make(*(part[i] for part in self.parts))


def children():
    return multiprocessing.active_children()


def trained(data, samples=150, **options):
    """Weights and bounds after three epochs of three minibatches, of which the last is short."""
    trainer = make(data=data, **options)
    bounds = [report.bound for report in trainer.run(samples)]
    return {**weights(trainer), "bounds": torch.tensor(bounds)}, trainer.batches.fingerprint


def assert_same_training(data, in_memory, **options):
    found, digest = trained(data, **options)
    expected, known = trained(in_memory, **options)
    assert_equal(found, expected)
    assert digest == known
    assert not children()


@pytest.mark.parametrize("engine", ["eager", "captured", "svi"])
@pytest.mark.parametrize("kind", ["mapped", "streamed", "workers"])
def test_a_training_is_the_same_to_the_last_bit(file, kind, engine):
    x = binary(60)
    array = file(x.numpy())
    data = {
        "mapped": lambda: array,
        "streamed": lambda: Streamed(Rows(x), workers=0),
        "workers": lambda: Streamed(Rows(x), workers=2),
    }[kind]()
    assert_same_training(data, x, engine=engine)


class Conditioned:
    """p(z) p(x|z, side) and q(z|x, side): a pair of two arguments."""

    def __init__(self):
        torch.manual_seed(0)
        self.decoder = torch.nn.Linear(4, 3)
        self.encoder = torch.nn.Linear(5, 4)

    def model(self, x, side):
        pyro.module("decoder", self.decoder)
        with plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1).to_event(1))
            both = torch.cat([z, side.expand(*z.shape[:-1], 2)], -1)
            pyro.sample("x", dist.Normal(self.decoder(both), 1.0).to_event(1), obs=x)

    def guide(self, x, side):
        pyro.module("encoder", self.encoder)
        with plate(x):
            loc, log_scale = self.encoder(torch.cat([x, side], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def conditioned(data, samples=144):
    """Decoder's weights and the bounds."""
    pair = Conditioned()
    trainer = aevb.Trainer(pair.model, pair.guide, data, batch_size=20, engine="eager", device="cpu", report_every=48)
    bounds = [report.bound for report in trainer.run(samples)]
    return torch.cat([pair.decoder.weight.detach().flatten(), torch.tensor(bounds)]), trainer.batches.fingerprint


TWO = {
    "files": lambda file, x, side: (file(x, name="a.npy"), file(side, name="b.npy")),
    "one in memory": lambda file, x, side: (file(x), side),
    "keywords": lambda file, x, side: {"side": file(side, name="b.npy"), "x": file(x, name="a.npy")},
    "rows of two": lambda file, x, side: Streamed(Rows(x, side), workers=2),
    "rows of dictionaries": lambda file, x, side: Streamed(
        Rows(x, side, make=lambda a, b: {"x": a, "side": b}), workers=0
    ),
    "two data sets": lambda file, x, side: (Streamed(Rows(x), workers=0), Streamed(Rows(side), workers=2)),
    "data set and file": lambda file, x, side: {"x": file(x), "side": Streamed(Rows(side), workers=0)},
}


@pytest.mark.parametrize("kind", TWO)
def test_pairs_of_two_arguments(file, kind):
    # Of float64, where the pair's weights are float32.
    x, side = (np.random.default_rng(0).normal(size=(48, width)) for width in (3, 2))
    found, digest = conditioned(TWO[kind](file, x, side))
    by_name = kind in ("keywords", "rows of dictionaries", "data set and file")
    expected, known = conditioned({"x": x, "side": side} if by_name else (x, side))
    assert torch.equal(found, expected)
    assert digest == known or kind == "keywords"  # which are in another order
    assert not children()


def grey_pair():
    with aevb.seeded(0):
        model = aevb.GenerativeModel(
            aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 16, hidden=[8]), size=60
        )
        return model, aevb.RecognitionModel(aevb.guides.DiagonalNormal(16, 2, hidden=[8]), size=60)


def binarised(data, engine="eager"):
    model, guide = grey_pair()
    trainer = aevb.Trainer(model, guide, data, batch_size=25, engine=engine, device="cpu", report_every=60)
    bounds = torch.tensor([report.bound for report in trainer.run(180)])
    return {**weights(trainer), "bounds": bounds}, trainer.batches.fingerprint


BYTES = (GREY * 255).byte()
IMAGES = BYTES.float() / 255


@pytest.mark.parametrize(
    "make",
    [
        lambda file: DynamicBinarization(file(IMAGES.numpy())),
        lambda file: DynamicBinarization(Mapped(file(BYTES.numpy()), dtype=torch.float32, divisor=255)),
        lambda file: DynamicBinarization(
            Mapped(file(BYTES.view(60, 4, 4).numpy()), dtype=torch.float32, divisor=255).flatten(1)
        ),
        lambda file: DynamicBinarization(Streamed(Rows(IMAGES), workers=2)),
    ],
    ids=["float", "bytes", "flattened", "streamed"],
)
def test_grey_values_are_binarised_as_in_memory(file, make):
    data = make(file)
    expected, known = binarised(DynamicBinarization(IMAGES))
    found, digest = binarised(data)
    assert_equal(found, expected)
    assert digest == known == fingerprint(data)
    assert torch.equal(data.fixed(5), DynamicBinarization(IMAGES).fixed(5))
    assert data.shape == (60, 16)


def test_grey_values_of_bytes_in_a_recording(file):
    """Rows of rows, the division and the draw are part of it."""
    chosen = torch.randperm(90, generator=torch.Generator().manual_seed(1))[:60]
    large = torch.cat([torch.zeros(30, 16).byte(), BYTES])
    data = Mapped(file(large.numpy()), chosen, dtype=torch.float32, divisor=255)
    found, digest = binarised(DynamicBinarization(data), "captured")
    expected, known = binarised(DynamicBinarization(large[chosen].float() / 255), "captured")
    assert_equal(found, expected)
    assert digest == known


@pytest.mark.parametrize("bad", [torch.full((3, 2), 1.5), torch.tensor([[0.5, torch.nan]]), torch.zeros(3, 2).int()])
def test_grey_values_of_a_file_are_checked(file, bad):
    with pytest.raises(InputError, match="cannot be binarised"):
        DynamicBinarization(file(bad.numpy()))


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(size=(60, 6)).astype(">f4"),
        np.random.default_rng(0).normal(size=(60, 6)).astype(">f8"),
        np.asfortranarray(np.random.default_rng(0).normal(size=(60, 6))),
        np.random.default_rng(0).normal(size=(60, 6)).astype("f2"),
        np.random.default_rng(0).normal(size=(60, 6)).astype("f4"),
    ],
    ids=["big-endian single", "big-endian double", "Fortran", "half", "single"],
)
@pytest.mark.parametrize("engine", ["eager", "captured"])
def test_each_minibatch_is_brought_to_the_pairs_precision(file, array, engine):
    """Of float64 weights; the whole file is never converted."""
    assert_same_training(file(array), array, likelihood="Gaussian", engine=engine, samples=75)


@pytest.mark.parametrize("part", [slice(60), slice(0, 120, 2), slice(60, None)])
def test_parts_of_a_file(file, part):
    array = np.random.default_rng(0).normal(size=(120, 9))
    found = file(array)[part, 1:7]
    assert is_mapped(found)
    assert_same_training(found, array[part, 1:7].copy(), likelihood="Gaussian", engine="eager", samples=75)


# ---------------------------------------------------------------- stopping and going on


@pytest.mark.parametrize("first", ["memory", "file", "workers"])
@pytest.mark.parametrize("then", ["memory", "file", "workers"])
def test_a_run_goes_on_with_the_same_data_wherever_they_are(file, first, then):
    x = binary(60)
    array = file(x.numpy())
    data = {"memory": lambda: x, "file": lambda: array, "workers": lambda: Streamed(Rows(x), workers=2)}
    whole, _ = trained(x, engine="eager", samples=225)
    begun = make(data=data[first](), engine="eager")
    for _ in begun.run(110):  # two epochs are 120
        pass
    going_on = make(data=data[then](), engine="eager", weights=1)
    going_on.load_state_dict(begun.state_dict())
    for _ in going_on.run(115):
        pass
    assert_equal({**weights(going_on)}, {name: value for name, value in whole.items() if name != "bounds"})
    assert not children()


def test_other_data_are_refused(file):
    state = make(data=file(binary(60).numpy()), engine="eager").state_dict()
    other = binary(60)
    other[59, 0] = 1 - other[59, 0]
    with pytest.raises(InputError, match="other data"):
        make(data=Streamed(Rows(other), workers=0), engine="eager").load_state_dict(state)


# ---------------------------------------------------------------- workers


def test_any_step_may_be_asked_for(file):
    """Of data in memory, in a file and from workers, in whatever order, across epochs and short minibatches."""
    x = binary(60)
    expected = make(data=x).batches
    for data in (file(x.numpy()), Streamed(Rows(x), workers=0), Streamed(Rows(x), workers=2)):
        batches = make(data=data).batches
        for step in (0, 1, 2, 3, 40, 41, 5, 5, 0):
            visit = batches.visit(step)
            assert torch.equal(visit[0], expected.visit(step)[0])
            assert torch.equal(batches.take(*visit)[0], expected[step][0])
            assert torch.equal(batches[step][0], expected[step][0])
        batches.close()
    assert not children()


def test_a_state_that_is_loaded_amid_a_run_leads_to_its_own_step():
    runs = [make(data=data, engine="eager", report_every=60) for data in (Streamed(Rows(binary(60)), 2), binary(60))]
    for trainer in runs:
        run = trainer.run(240)
        next(run)
        state = trainer.state_dict()
        next(run)
        trainer.load_state_dict(state)
        next(run)
        run.close()
    assert_equal(*map(weights, runs))


def test_workers_end_with_a_run_however_it_ends():
    trainer = make(data=Streamed(Rows(binary(60)), workers=2), engine="eager", report_every=25)
    run = trainer.run(200)
    next(run)
    assert len(children()) == 2  # on their way to the next steps
    run.close()
    assert not children()
    for _ in trainer.run(50):
        break
    assert not children()
    trainer.estimator.differentiable_loss = None
    with pytest.raises(TypeError):
        next(trainer.run(50))
    assert not children()


def test_random_states_stay_as_they_are():
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    class Drawing(Rows):
        def __getitem__(self, i):
            torch.rand(2)
            return super().__getitem__(i)

    before = states()
    for workers in (0, 2):
        assert_same_training(Streamed(Drawing(binary(60)), workers), binary(60), engine="eager")
    assert states() == before


def test_ctrl_c_does_not_reach_workers():
    class Ignoring(Rows):
        """Rows whose first pixel tells it, fetched by a worker."""

        def __getitem__(self, i):
            if get_worker_info() is not None:
                assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
                assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
            return super().__getitem__(i)

    for _ in make(data=Streamed(Ignoring(binary(60)), 2), engine="eager").run(75):
        pass


def test_a_script_needs_no_main_guard(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, pyro_aevb as aevb\n"
        "from torch.utils.data import Dataset\n"
        "from pyro_aevb.data.streamed import Streamed\n"
        "class Rows(Dataset):\n"
        "    def __len__(self): return 60\n"
        "    def __getitem__(self, i): return torch.full((6,), float(i % 2))\n"
        "model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 6), size=60)\n"
        "guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(6, 2), size=60)\n"
        "trainer = aevb.Trainer(model, guide, Streamed(Rows()), batch_size=10, device='cpu')\n"
        "for progress in trainer.run(120): print('seen', progress.samples_seen)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "seen 120\n"), done.stderr


# ---------------------------------------------------------------- what goes wrong


class Failing(Rows):
    """One row cannot be read, once it is switched on."""

    broken = False

    def __getitem__(self, i):
        if self.broken and i == 17:
            raise KeyError("no such\nentry")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_row_that_cannot_be_fetched_is_named(workers):
    data = Failing(binary(60))
    trainer = make(data=Streamed(data, workers), engine="eager")
    data.broken = True
    with pytest.raises(InputError, match=r"^row 17 of the Failing cannot be fetched \(KeyError: .*\)$"):
        list(trainer.run(60))
    assert not children()
    data.broken = False
    list(trainer.run(60 - trainer.samples_seen))  # nothing was torn
    expected, _ = trained(binary(60), engine="eager", samples=60)
    assert_equal(weights(trainer), {name: value for name, value in expected.items() if name != "bounds"})
    data.broken = True
    with pytest.raises(InputError, match="row 17"):
        make(data=Streamed(data, workers), engine="eager")


def test_a_worker_that_dies_is_told_of():
    class Dying(Rows):
        def __getitem__(self, i):
            if get_worker_info() is not None and i == 17:
                os._exit(3)
            return super().__getitem__(i)

    trainer = make(data=Streamed(Dying(binary(60)), 1), engine="eager")
    with pytest.raises((InputError, RuntimeError), match=r"exited unexpectedly|has ended"):
        list(trainer.run(60))
    assert not children()


class Random(Rows):
    def __getitem__(self, i):
        return super().__getitem__(i) + torch.rand(())


class Uneven(Rows):
    def __getitem__(self, i):
        return super().__getitem__(i)[: 5 if i == 40 else 6]


class Unlike(Rows):
    def __getitem__(self, i):
        row = super().__getitem__(i)
        return {"x": row, "side": row} if i == 40 else {"x": row}


class Batched(Rows):
    """Rows that come many at a time."""

    def __getitems__(self, rows):
        return list(self.parts[0][rows])


class Fewer(Batched):
    def __getitems__(self, rows):
        return super().__getitems__(rows)[:24]


def test_many_rows_at_once():
    assert_same_training(Streamed(Batched(binary(60)), 0), binary(60), engine="eager")


class Stream(IterableDataset):
    def __iter__(self):
        return iter(binary(60))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: Random(binary(60)), "differs when it is fetched twice"),
        (lambda: Uneven(binary(60)), "cannot be laid together"),
        (lambda: Unlike(binary(60)), "row 40 of the Unlike has other keys"),
        (lambda: Fewer(binary(60)), "gives 24 rows where"),
        (lambda: DataLoader(TensorDataset(binary(60))), "give its dataset"),
        (Stream, "must be a map-style Dataset"),
        (lambda: [1, 2], "is in memory"),
        (lambda: Rows, "the class Rows"),
        (lambda: binary(60).numpy(), "torch.from_numpy"),
        (lambda: binary(60)[:0], "empty"),
        (lambda: Rows(binary(60), make=lambda x: "a"), "no argument has one row a datum|list"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_streamed_is_refused(data, words):
    with pytest.raises(InputError, match=words) as told:
        make(data=Streamed(data(), workers=0), engine="eager")
    assert "\n" not in str(told.value)


def test_a_data_set_of_several_arguments_stands_alone():
    rows = Rows(binary(60), binary(60), make=lambda a, b: (a, b))
    for data in ((Streamed(rows), binary(60)), {"x": Streamed(rows)}):
        with pytest.raises(InputError, match="several arguments"):
            make(data=data)


def records(tmp_path):
    array = np.zeros(60, dtype=[("a", "i1"), ("x", "f4", 6)])
    array.tofile(tmp_path / "records")
    return np.memmap(tmp_path / "records", dtype=array.dtype)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda file, _: file(binary(60).numpy())[::-1], "lies backwards"),
        (lambda file, _: file(binary(60).numpy() + 0j), "numbers of at most 8 bytes"),
        (lambda file, _: file(np.array(["a", "b"])), "numbers of at most 8 bytes"),
        (lambda file, _: file(np.array(3.0)), "numbers of at most 8 bytes"),
        (lambda file, tmp_path: records(tmp_path), "numbers of at most 8 bytes"),
        (lambda file, tmp_path: records(tmp_path)["x"], "between the words|field of records"),
        (lambda file, _: binary(60).numpy(), "in memory: give it as it is"),
        (lambda file, _: binary(60), "np.load"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_array_that_no_tensor_can_lie_over_is_refused(file, tmp_path, given, words):
    with pytest.raises(InputError, match=words):
        Mapped(given(file, tmp_path))


def test_bad_options_of_a_mapped_array_are_refused(file):
    array = file(np.zeros((5, 2), "u1"))
    for rows in (torch.tensor([5]), torch.tensor([-1]), torch.tensor([0.5]), torch.tensor([[1]]), torch.ones(5).bool()):
        with pytest.raises(InputError, match="rows must"):
            Mapped(array, rows)
    with pytest.raises(InputError, match=r"give dtype=torch\.float32"):
        Mapped(array, divisor=255)
    with pytest.raises(InputError, match="divisor must be positive"):
        Mapped(array, dtype=torch.float32, divisor=0)
    with pytest.raises(InputError, match="in C order"):
        Mapped(file(np.asfortranarray(np.zeros((5, 2, 3))))).flatten()
    with pytest.raises(InputError, match="from dimension 1"):
        Mapped(array).flatten(0)


def test_a_file_is_mapped_by_its_path(tmp_path, file):
    array = file(BYTES.view(60, 4, 4).numpy())
    found = map_file(tmp_path / "x.npy", dtype=torch.float32, divisor=255)
    assert torch.equal(found[:], torch.from_numpy(np.array(array)).float() / 255)
    assert fingerprint(found) == fingerprint(IMAGES.view(60, 4, 4))
    train = found.flatten().chosen(torch.tensor([5, 1, 7])).chosen(torch.tensor([2, 0]))
    assert torch.equal(train[:], IMAGES[[7, 5]])
    assert torch.equal(train[1:], IMAGES[[5]])
    np.savez(tmp_path / "x.npz", array)
    (tmp_path / "short.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-1])
    (tmp_path / "object.npy").write_bytes(b"")
    np.save(tmp_path / "object.npy", np.array([None]), allow_pickle=True)
    bad = {"x.npz": "archive", "short.npy": "truncated", "object.npy": "no .npy", "y.npy": "no file"}
    for name, words in bad.items():
        with pytest.raises(InputError, match=words):
            map_file(tmp_path / name)
    with pytest.raises(InputError, match="must be a path"):
        map_file(3)


# ---------------------------------------------------------------- one pass


class Counting(Rows):
    """Rows that count how often each is fetched."""

    def __init__(self, *tensors):
        super().__init__(*tensors)
        self.counts = torch.zeros(len(self), dtype=torch.long)

    def __getitem__(self, i):
        self.counts[i] += 1
        return super().__getitem__(i)


def test_all_data_are_read_once_at_the_beginning(monkeypatch):
    monkeypatch.setattr(mapped, "SPAN_BYTES", 100)
    monkeypatch.setattr(batches, "fingerprint", None)  # which would read them once more
    x = binary(600)
    data = Counting(x)
    trainer = make(data=Streamed(data, workers=0), size=600, engine="eager")
    others = torch.ones(600, dtype=torch.bool)
    others[0] = False  # which is looked at to see what a row is
    for step in (0, trainer.batches.per_epoch - 1):  # the minibatches that the pair is tried on
        others[trainer.batches.visit(step)[0]] = False
    data.counts[~others] = 1
    assert (data.counts == 1).all()
    monkeypatch.undo()
    assert trainer.state_dict()["identity"]["data"] == fingerprint(x)
    assert (data.counts == 1).all()


def test_grey_data_are_read_once(file):
    class Watched(Mapped):
        fetched = 0

        def fetch(self, rows):
            self.fetched += len(rows)
            return super().fetch(rows)

    data = Watched(file(IMAGES.numpy()))
    grey = DynamicBinarization(data)
    assert data.fetched == 60
    model, guide = grey_pair()
    trainer = aevb.Trainer(model, guide, grey, batch_size=25, engine="eager", device="cpu")
    before = data.fetched
    assert trainer.state_dict()["identity"]["data"] == fingerprint(DynamicBinarization(IMAGES))
    assert data.fetched == before < 60 + 200  # a few minibatches


def test_spans_are_all_rows_in_turn(monkeypatch):
    monkeypatch.setattr(mapped, "SPAN_BYTES", 100)
    for shape in ((0, 3), (1, 3), (60, 3), (60, 1000), (60,), (60, 0)):
        values = torch.zeros(shape)
        rows = torch.cat([torch.arange(len(values))[span] for span in mapped.spans(values)] or [torch.zeros(0)])
        assert rows.tolist() == list(range(len(values)))
        assert all(values[span].numel() * 4 <= 100 or len(values[span]) == 1 for span in mapped.spans(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.uint8, torch.int64])
def test_a_fingerprint_is_that_of_all_bytes_at_once(monkeypatch, dtype):
    monkeypatch.setattr(mapped, "SPAN_BYTES", 100)
    numbers = torch.arange(70).to(dtype)
    for values in (numbers.view(7, 10), numbers.view(10, 7).T, numbers[1]):
        plain = values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        assert fingerprint(values) == hashlib.sha256(plain).hexdigest()


def test_a_long_check_tells_how_far_it_is(monkeypatch, caplog):
    monkeypatch.setattr(stored, "LARGE", 0)
    monkeypatch.setattr(mapped, "SPAN_BYTES", 100)
    with caplog.at_level(logging.INFO, "pyro_aevb"):
        make(data=Streamed(Rows(binary(60)), workers=0), engine="eager")
    told = [record.getMessage() for record in caplog.records if "checked" in record.getMessage()]
    assert [words.split()[1] for words in told] == [f"{tenth}0" for tenth in range(1, 11)]


# ---------------------------------------------------------------- whoever else trains


def members(data):
    return [make(seed, weights=seed, data=data(), engine="eager", batch_size=20) for seed in range(2)]


@pytest.mark.parametrize("kind", ["file", "workers"])
def test_an_ensemble(file, kind):
    x = binary(60)
    array = file(x.numpy())
    found = members({"file": lambda: array, "workers": lambda: Streamed(Rows(x), workers=1)}[kind])
    expected = members(lambda: x)
    for trainers in (found, expected):
        for _ in Ensemble(trainers, compiled=False).run(150):
            pass
    for one, other in zip(found, expected, strict=True):
        assert_equal(weights(one), weights(other))
    assert not children()


@pytest.mark.parametrize("kind", ["file", "workers"])
@pytest.mark.parametrize("e_step", ["minibatch", "all"])
def test_monte_carlo_em(file, kind, e_step):
    x = principal_components()[0]
    array = file(x.numpy())
    data = {"file": lambda: array, "workers": lambda: Streamed(Rows(x), workers=2)}[kind]()

    def run(given):
        trainer = aevb.MonteCarloEM(make_model(), given, batch_size=70, device="cpu", e_step=e_step, engine="eager")
        list(trainer.run(600))
        return {**trainer.parameters, "chains": trainer.chains}

    assert_equal(run(data), run(x))
    assert not children()


# ---------------------------------------------------------------- memory

PEAK = """
import sys, threading, numpy as np, torch
import pyro_aevb as aevb
from pyro_aevb.data.streamed import Streamed

def anonymous():
    return next(int(line.split()[1]) / 1000 for line in open("/proc/self/status") if line.startswith("RssAnon"))

rows, streamed = int(sys.argv[2]), sys.argv[3] == "streamed"
array = np.load(sys.argv[1], mmap_mode="r")[:rows]
model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Bernoulli(2, 500, hidden=[8]), size=rows)
guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(500, 2, hidden=[8]), size=rows)
peak, over = [0], threading.Event()

def look():
    while not over.wait(0.001):
        peak[0] = max(peak[0], anonymous())

thread = threading.Thread(target=look)
thread.start()
data = Streamed(array, workers=2) if streamed else array
trainer = aevb.Trainer(model, guide, data, batch_size=100, device="cpu", engine="eager")
for _ in trainer.run(min(rows, 20_000)):
    pass
with trainer.param_store():
    aevb.evidence.bound(model, guide, array[:2000])
trainer.state_dict()
over.set()
thread.join()
print(peak[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc, which Linux alone has")
@pytest.mark.parametrize("way", ["mapped", "streamed"])
def test_memory_does_not_grow_with_the_file(tmp_path, way):
    """From 20 MB to 200 MB; a copy of the file would take 180 MB more."""
    path = tmp_path / "zeros.npy"
    np.lib.format.open_memmap(path, "w+", np.float32, (100_000, 500)).flush()  # sparse

    def peak(rows):
        command = [sys.executable, "-c", PEAK, path, str(rows), way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    assert peak(100_000) < peak(10_000) + 60


def test_a_condition_and_an_exposure_may_lie_in_files_too(tmp_path):
    """Equal bit for bit to the same data in memory; a streamed condition too."""
    generator = np.random.default_rng(0)
    arrays = {
        "x": generator.poisson(3.0, (60, 4)).astype(np.float32),
        "condition": generator.integers(0, 3, 60),
        "exposure": generator.uniform(1, 2, 60).astype(np.float32),
    }
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}
    memory = {name: torch.from_numpy(array) for name, array in arrays.items()}
    streamed = Streamed(RowsOf(memory), workers=0)
    states = []
    for data in (memory, mapped, streamed):
        with aevb.seeded(0):
            beside = {"condition": 3, "exposure": True}
            likelihood = aevb.likelihoods.Poisson(2 + 3, 4, hidden=[5])
            model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), likelihood, 60, **beside)
            guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(4 + 3 + 1, 2, hidden=[5]), 60, **beside)
        list(aevb.Trainer(model, guide, data, batch_size=25, engine="eager", device="cpu").run(120))
        states.append({**model.state_dict(), **{f"q.{k}": v for k, v in guide.state_dict().items()}})
    assert_equal(states[0], states[1])
    assert_equal(states[0], states[2])
    mapped["condition"] = np.load(tmp_path / "condition.npy", mmap_mode="c")
    mapped["condition"][7] = 3
    with pytest.raises(aevb.InputError, match="condition of datum 7 is 3"):
        aevb.Trainer(model, guide, mapped, batch_size=25, device="cpu")


class RowsOf(torch.utils.data.Dataset):
    """Rows of tensors, as a dictionary each."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors["x"])

    def __getitem__(self, row):
        return {name: tensor[row] for name, tensor in self.tensors.items()}
