"""Arguments in every form: a pair of keywords, dictionaries or packed sequences does what one of plain tensors does."""

import functools
import logging
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import pyro_aevb as aevb
from pyro_aevb import diagnostics, estimators, evidence
from pyro_aevb.data import taken_apart
from pyro_aevb.diagnostics.gradients import gradient_moments
from tests.everything import REFUSED, evaluators
from tests.pairs import plate

ROWS = 24


class Sides(NamedTuple):
    """A named tuple, which is one argument."""

    x: torch.Tensor
    side: torch.Tensor


class Pair:
    """p(z) p(x|z, side) and q(z|x, side), under whatever names and shapes the arguments come."""

    def __init__(self, unwrapped):
        torch.manual_seed(0)
        self.decoder = nn.Linear(4, 3).double()
        encoder = nn.Linear(5, 4).double()

        def model(*args, **keywords):
            x, side = unwrapped(*args, **keywords)
            pyro.module("decoder", self.decoder)
            with plate(x):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1).to_event(1))
                both = torch.cat([z, side.expand(*z.shape[:-1], 2)], -1)
                pyro.sample("x", dist.Normal(self.decoder(both), 1.0).to_event(1), obs=x)

        def guide(*args, **keywords):
            x, side = unwrapped(*args, **keywords)
            pyro.module("encoder", encoder)
            with plate(x):
                loc, log_scale = encoder(torch.cat([x, side], -1)).chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        self.model = model
        self.guide = guide


def data():
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(ROWS, width, generator=generator, dtype=torch.float64) for width in (3, 2))


class Rows(Dataset):
    """Rows made one by one."""

    def __init__(self, make):
        self.make = make
        self.data = data()

    def __len__(self):
        return ROWS

    def __getitem__(self, i):
        return self.make(*(part[i] for part in self.data))


def with_extras(x, side, nothing=None, factor=1.0, number=2, word="a"):
    assert (nothing, number, word) == (None, 2, "a")
    return x, side * factor


def scaled(x, side, options):
    return x, side * options["factor"]


FORMS = {
    "keywords": (lambda x, side: {"side": side, "x": x}, lambda *, x, side: (x, side)),
    "keywords of a dictionary": (lambda x, side: {"side": side, "x": x}, lambda x, side: (x, side)),
    "a dictionary": (lambda x, side: ({"x": x, "side": side},), lambda batch: (batch["x"], batch["side"])),
    "nested": (lambda x, side: ((x,), [side]), lambda a, b: (a[0], b[0])),
    "a named tuple": (lambda x, side: Sides(x, side), lambda batch: (batch.x, batch.side)),
    "constants": (lambda x, side: (x, side, None, torch.tensor(1.0), 2, "a"), with_extras),
    "constant array": (lambda x, side: (x, side, {"factor": np.float64(1)}), scaled),
    "arrays": (lambda x, side: {"x": x.numpy(), "side": side.numpy()}, lambda x, side: (x, side)),
    "TensorDataset": (lambda x, side: TensorDataset(x, side), lambda x, side: (x, side)),
    "Dataset of dictionaries": (lambda *_: Rows(lambda x, side: {"x": x, "side": side}), lambda x, side: (x, side)),
    "Subset": (lambda x, side: Subset(TensorDataset(x, side), range(ROWS)), lambda x, side: (x, side)),
    "DataLoader": (lambda x, side: DataLoader(TensorDataset(x, side), 7, shuffle=True), lambda x, side: (x, side)),
    "sampler of batches": (
        lambda x, side: DataLoader(
            TensorDataset(x, side),
            batch_sampler=BatchSampler(SequentialSampler(range(ROWS)), 7, False),
            collate_fn=lambda rows: [torch.stack(part) for part in zip(*rows, strict=True)],
        ),
        lambda x, side: (x, side),
    ),
    "rows of one dictionary": (
        lambda *_: Rows(lambda x, side: ({"x": x, "side": side},)),
        lambda batch: (batch["x"], batch["side"]),
    ),
    "a data set as one argument": (
        lambda *_: (Rows(lambda x, side: {"x": x, "side": side}),),
        lambda batch: (batch["x"], batch["side"]),
    ),
    "rows of arrays": (lambda *_: Rows(lambda x, side: (x.numpy(), side.numpy())), lambda x, side: (x, side)),
    "DataLoader that collates": (
        lambda *_: DataLoader(
            Rows(lambda *row: row),
            7,
            collate_fn=lambda rows: {"batch": dict(zip("xs", map(torch.stack, zip(*rows, strict=True)), strict=True))},
        ),
        lambda batch: (batch["x"], batch["s"]),
    ),
}


def trained(pair, given, engine, estimator=None):
    """Weights and bounds after a few epochs, with a short last minibatch."""
    trainer = aevb.Trainer(pair.model, pair.guide, given, estimator, batch_size=10, engine=engine, device="cpu")
    bounds = [report.bound for report in trainer.run(3 * ROWS)]
    return bounds, pair.decoder.weight.detach().clone()


# Engines see tensors alone, whatever the form: two forms show it.
@pytest.mark.parametrize(
    ("form", "engine"),
    [*((form, "eager") for form in FORMS), ("keywords", "svi"), ("constants", "svi"), ("constants", "captured")],
)
def test_training_is_that_of_plain_tensors(form, engine):
    wrap, unwrap = FORMS[form]
    bounds, weight = trained(Pair(unwrap), wrap(*data()), engine)
    expected_bounds, expected = trained(Pair(lambda *args: args), data(), engine)
    assert bounds == expected_bounds
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("form", ["keywords", "constants", "arrays", "DataLoader that collates"])
def test_evaluation_is_that_of_plain_tensors(form):
    wrap, unwrap = FORMS[form]
    pair = Pair(unwrap)
    plain = Pair(lambda *args: args)
    expected = evaluators(plain.model, plain.guide, data())
    found = evaluators(pair.model, pair.guide, (wrap(*data()),))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value is REFUSED if expected[name] is REFUSED else torch.equal(value, expected[name]), name
    assert REFUSED not in [value for value in found.values() if isinstance(value, str)]
    samples = []
    for model, given in ((plain.model, data()), (pair.model, wrap(*data()))):
        with aevb.seeded(0):
            samples.append(aevb.hmc.sample_posterior(model, given, 3, burn_in=2))
    assert torch.equal(samples[0].position, samples[1].position)


@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("form", ["keywords", "a dictionary"])
def test_many_particles_are_those_of_plain_tensors(form, particles):
    wrap, unwrap = FORMS[form]
    for estimator in (estimators.SGVB, estimators.IWAE, estimators.VIMCO, estimators.WakeSleep):
        count = max(particles, estimator.least_particles)
        expected = trained(Pair(lambda *args: args), data(), "eager", estimator(count))
        found = trained(Pair(unwrap), wrap(*data()), "eager", estimator(count))
        assert found[0] == expected[0]
        assert torch.equal(found[1], expected[1])


def test_what_a_partial_binds_stays_bound():
    """Python takes a partial of a partial apart: with a dictionary the pair ran without what was bound."""
    x, side = data()
    plain = Pair(lambda *args: args)
    model = functools.partial(lambda factor, x, side, power: plain.model(x, factor * side**power), 3.0, power=2)
    guide = functools.partial(lambda factor, x, side: plain.guide(x, factor * side), 3.0)
    found = evidence.bound(model, guide, {"x": x, "side": side}).bound
    torch.testing.assert_close(found, evidence.bound(model, guide, (x, side)).bound)


def test_precision_that_nobody_chose_is_that_of_the_weights():
    """Arrays, in a dictionary or in the rows of a data set, are float64 by default."""
    x, side = (part.float() for part in data())
    plain = Pair(lambda *args: args)
    plain.model(x.double(), side.double())
    single = aevb.GenerativeModel(aevb.priors.StandardNormal(2), aevb.likelihoods.Gaussian(2, 3, hidden=4))
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(3, 2, hidden=4))
    expected = evidence.bound(single, guide, x).bound
    for given in ({"x": x.double().numpy()}, Rows(lambda x, _: x.numpy()), DataLoader(Rows(lambda x, _: (x.numpy(),)))):
        torch.testing.assert_close(evidence.bound(single, guide, given).bound, expected)


def test_names_that_only_end_alike_are_no_lengths():
    x, _ = data()
    plain = Pair(lambda *args: args)
    waves = torch.randint(400, 700, (ROWS,))
    found = evidence.bound(
        lambda x, wavelengths: plain.model(x, wavelengths.unsqueeze(-1).expand(-1, 2).double() / 500),
        lambda x, wavelengths: plain.guide(x, wavelengths.unsqueeze(-1).expand(-1, 2).double() / 500),
        {"x": x, "wavelengths": waves},
    )
    assert found.bound.isfinite().all()


def test_a_saved_state_knows_its_form(tmp_path):
    wrap, unwrap = FORMS["constants"]
    pair = Pair(unwrap)
    given = wrap(*data())
    trainer = aevb.Trainer(pair.model, pair.guide, given, batch_size=10, device="cpu")
    list(trainer.run(20))
    state = trainer.state_dict()
    aevb.Trainer(pair.model, pair.guide, given, batch_size=10, device="cpu").load_state_dict(state)
    other = (*given[:3], torch.tensor(2.0), *given[4:])
    with pytest.raises(aevb.InputError, match="data"):
        aevb.Trainer(pair.model, pair.guide, other, batch_size=10, device="cpu").load_state_dict(state)
    kept = tmp_path / "kept.pt"
    evidence.importance_weights(pair.model, pair.guide, given, 5, keep=kept)
    with pytest.raises(aevb.InputError, match="other data, weights or settings"):
        evidence.importance_weights(pair.model, pair.guide, other, 5, keep=kept)


def test_binarised_data_may_be_one_of_several_arguments():
    def model(x, bias):
        with plate(x):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z + bias).to_event(1), obs=x)

    def guide(x, bias):
        with plate(x):
            pyro.sample("z", dist.Normal(pyro.param("m", torch.zeros(4)) * x, 1.0).to_event(1))

    grey = torch.rand(ROWS, 4)
    drawn = aevb.data.DynamicBinarization(grey)
    runs = []
    for given in ({"x": drawn, "bias": torch.zeros(ROWS, 4)}, (drawn, torch.zeros(ROWS, 4))):
        runs.append([r.bound for r in aevb.Trainer(model, guide, given, batch_size=8, device="cpu").run(48)])
    assert runs[0] == runs[1]
    with pytest.raises(aevb.InputError, match="argument 'x': these data are binarised anew"):
        evidence.bound(model, guide, {"x": drawn, "bias": torch.zeros(ROWS, 4)})


# ---------------------------------------------------------------- sequences


def sequences():
    """Sequences of lengths 1 to 5, ``(T, 2)`` each."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(1 + i % 5, 2, generator=generator) for i in range(ROWS)]


class OfSequences:
    """A latent for each sequence, whose values are independent given it; the guide's network is recurrent."""

    def __init__(self, unpacked):
        torch.manual_seed(0)
        encoder = nn.GRU(2, 4, batch_first=True)

        def model(*args):
            values, lengths = unpacked(*args)
            pyro.module("encoder", encoder)
            there = torch.arange(values.shape[1]) < lengths.unsqueeze(-1)  # (B, T)
            with plate(values):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
                of_each = dist.Normal(z.unsqueeze(-2).expand(*z.shape[:-1], values.shape[1], 2), 1.0).to_event(1)
                pyro.sample("x", of_each.mask(there).to_event(1), obs=values)

        def guide(*args):
            values, lengths = unpacked(*args)
            packed = pack_padded_sequence(values, lengths.cpu(), batch_first=True, enforce_sorted=False)
            with plate(values):
                loc, log_scale = encoder(packed)[1][0].chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

        self.model = model
        self.guide = guide


def test_packed_sequences_are_padded_ones_with_their_lengths():
    packed = pack_sequence(sequences(), enforce_sorted=False)
    padded = pad_packed_sequence(packed, batch_first=True)
    of_packed = OfSequences(lambda given: pad_packed_sequence(given, batch_first=True, total_length=5))
    of_padded = OfSequences(lambda values, lengths: (values, lengths))
    found = [
        [r.bound for r in aevb.Trainer(p.model, p.guide, given, batch_size=10, device="cpu", engine="eager").run(48)]
        for p, given in ((of_packed, packed), (of_padded, padded))
    ]
    assert found[0] == found[1]
    for evaluate in (evidence.importance_sampling, lambda *args: evidence.bound(*args).bound):
        one, other = (evaluate(p.model, p.guide, given, 20) for p, given in ((of_packed, packed), (of_padded, padded)))
        torch.testing.assert_close(one, other)
    by_hand = [dist.Normal(0.0, 1.0).log_prob(s).sum() for s in sequences()]
    assert len(one) == len(by_hand)


def test_lengths_beyond_the_padding_are_refused_by_their_name():
    values, lengths = pad_packed_sequence(pack_sequence(sequences(), enforce_sorted=False), batch_first=True)
    lengths[3] = 9
    pair = OfSequences(lambda values, lengths: (values, lengths))

    def model(mini_batch, mini_batch_lengths):
        pair.model(mini_batch, mini_batch_lengths)

    def guide(mini_batch, mini_batch_lengths):
        pair.guide(mini_batch, mini_batch_lengths)

    for given in ((values, lengths), {"mini_batch": values, "mini_batch_lengths": lengths}):
        with pytest.raises(aevb.InputError, match="mini_batch_lengths of datum 3 is 9, and no argument is longer"):
            aevb.Trainer(model, guide, given, batch_size=10, device="cpu")
        with pytest.raises(aevb.InputError, match="mini_batch_lengths of datum 3"):
            evidence.bound(model, guide, given)


# ---------------------------------------------------------------- refusals


class Stream(IterableDataset):
    """Of a length that nobody knows."""

    def __iter__(self):
        yield from data()[0]


class OtherKeys(Rows):
    """The row 5 has a key more."""

    def __getitem__(self, i):
        x, side = (part[i] for part in self.data)
        return {"x": x, "side": side, **({"more": x} if i == 5 else {})}


class KeysInside(Rows):
    """The rows' dictionaries are not their outermost part."""

    def __getitem__(self, i):
        x, side = (part[i] for part in self.data)
        return x, {"y" if i < 5 else "q": side}


X, SIDE = data()
BAD = {
    "stream": (lambda: Stream(), "the Stream does not know how many data it has"),
    "loader of a stream": (lambda: DataLoader(Stream()), "the Stream does not know how many data it has"),
    "weighted": (
        lambda: DataLoader(TensorDataset(X, SIDE), sampler=WeightedRandomSampler([1.0] * ROWS, ROWS)),
        "draws by a WeightedRandomSampler, not each datum once",
    ),
    "another key": (lambda: OtherKeys(None), "'more' is in one of row 0 and row 5 alone"),
    "other shapes": (lambda: Rows(lambda x, side: torch.zeros(int(abs(10 * x[0])))), "cannot be laid together"),
    "empty": (lambda: TensorDataset(X[:0], SIDE[:0]), "the data set is empty"),
    "unknown keyword": (lambda: {"x": X, "sides": SIDE}, r"the pair takes \(x, side\).* 'x', 'sides'"),
    "one too many": (lambda: TensorDataset(X, SIDE, X), "the pair takes .* a positional one, a positional one, a"),
    "a key that is no name": (lambda: {"x": X, 3: SIDE}, "are the names of the pair's arguments, which 3 cannot be"),
    "row for row text": (
        lambda: Rows(lambda x, side: (x, "a")),
        r"argument data\[1\] is a list with an entry for each",
    ),
    "a list of numbers": (lambda: (X, list(range(ROWS))), r"argument data\[1\] is a list with an entry for each"),
    "keys inside": (lambda: KeysInside(None), r"\[1\]'[yq]' is in one of row 0 and row 5 alone"),
    "no minibatches": (lambda: DataLoader(TensorDataset(X, SIDE), batch_size=None), "makes no minibatches"),
    "a sampler of batches": (
        lambda: DataLoader(TensorDataset(X, SIDE), batch_sampler=[[0] * 4] * 6),
        "draws by a list, not each datum once",
    ),
    "some": (
        lambda: DataLoader(TensorDataset(X, SIDE), 4, sampler=RandomSampler(range(ROWS), num_samples=5)),
        r"draws by a RandomSampler, not each datum once.*Subset\(dataset, indices\)",
    ),
    "no number": (lambda: {"x": X, "side": np.array(None)}, "argument 'side': the data are an array of object"),
    "lengths": (lambda: {"x": X, "side": SIDE[:7]}, "'x' has 24 rows, 'side' 7: each tensor has one row a datum"),
    "sequences": (lambda: (X, [SIDE, SIDE[:3]]), r"data\[0\] has 24 rows, data\[1\]\[1\] 3: .*pack_sequence"),
    "nothing": (lambda: (None, 3), "no argument has one row a datum"),
    "text": (lambda: {"x": X, "side": np.array(["a"] * ROWS)}, "argument 'side': the data are an array of <U1"),
    "a list": (lambda: [X, SIDE], "the data are a list: give one tensor"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_forms_are_refused_by_the_name_of_the_argument(kind):
    make, message = BAD[kind]
    pair = Pair(lambda x, side: (x, side))

    def model(x, side):
        pair.model(x, side)

    def guide(x, side):
        pair.guide(x, side)

    for use in (
        lambda given: aevb.Trainer(model, guide, given, batch_size=10, device="cpu"),
        lambda given: aevb.MonteCarloEM(model, given, batch_size=10, device="cpu"),
        lambda given: evidence.bound(model, guide, given),
        lambda given: diagnostics.latent_kl(model, guide, given),
        lambda given: aevb.hmc.sample_posterior(model, given, 3),
    ):
        with pytest.raises(aevb.InputError, match=message) as refused:
            use(make())
        assert "\n" not in str(refused.value)


def test_a_loader_is_told_to_be_collated(caplog):
    with caplog.at_level(logging.INFO, "pyro_aevb"):
        taken_apart(DataLoader(TensorDataset(X)), evaluated=False)
    assert "minibatches, of batch_size, are drawn anew" in caplog.text


def test_gradients_are_compared_on_any_data():
    class Model(nn.Module):
        def __init__(self, of):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.of = of

        def forward(self, x):
            with plate(x):
                z = pyro.sample("z", self.of(x) if self.of else dist.Normal(x.new_zeros(len(x), 3), 1).to_event(1))
                if not self.of:
                    pyro.sample("x", dist.Normal(z * self.weight, 1.0).to_event(1), obs=x)

    model = Model(None)
    guide = Model(lambda x: dist.Normal(x * guide.weight, 1.0).to_event(1))
    plain, named = (gradient_moments(model, guide, estimators.SGVB(), given, 5) for given in (X, {"x": X}))
    for part in plain:
        assert torch.equal(plain[part].mean, named[part].mean)
