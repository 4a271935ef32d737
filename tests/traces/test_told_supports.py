"""Supports in plain words, and advice that, followed, makes the data lie there."""

import re

import pytest
import torch
from torch.distributions import constraints

import pyro_aevb as aevb
from pyro_aevb.distributions.pixels import Grid
from pyro_aevb.traces.observed import Observed, check_values
from pyro_aevb.traces.told_supports import advice_on, words_of

SUPPORTS = {
    "0 and 1 alone": (constraints.boolean, "binarize grey values"),
    "multiples of 1/255 between 0 and 1": (Grid(255), "these are multiples of 1/16: give the likelihood steps=16"),
    "whole numbers of at least 0": (constraints.nonnegative_integer, "times 16 they are whole numbers; give counts"),
    "whole numbers from 0 to 9": (constraints.integer_interval(0, 9), "give counts as they were counted"),
    "numbers between 0.5 and 1": (constraints.interval(0.5, 1.0), "shift and scale the data into it"),
    "numbers between 0.5 and 2": (constraints.half_open_interval(0.5, 2.0), "shift and scale the data into it"),
    "numbers of at least 1": (constraints.greater_than_eq(1.0), "take a likelihood of real numbers"),
    "numbers above 1": (constraints.greater_than(torch.ones(3)), "take a likelihood of real numbers"),
    "numbers above each datum's own bound": (constraints.greater_than(torch.arange(3.0)), "take a likelihood of real"),
    "numbers below 0": (constraints.less_than(0.0), "take a likelihood of real numbers"),
    "numbers of at least 0 that sum to 1": (constraints.simplex, "divide each datum by its sum"),
    "one 1 among zeros": (constraints.one_hot, "give data that lie there"),
}
GREY = torch.tensor([[0.0, 5 / 16, 1.0]])


@pytest.mark.parametrize("words", SUPPORTS)
def test_words_and_advice_of_each_kind(words):
    support, advice = SUPPORTS[words]
    for nested in (support, constraints.independent(support, 1)):
        assert words_of(nested) == words
        assert advice in advice_on(GREY, nested)


def test_advice_depends_on_the_data():
    assert "x > threshold" in advice_on(torch.tensor([2.0, 0.0]), constraints.boolean)
    assert "divide the data by their largest" in advice_on(torch.tensor([2.0, 0.0]), Grid(255))
    assert "round them" in advice_on(torch.tensor([0.123456, 0.0]), Grid(255))
    assert "shift them" in advice_on(torch.tensor([-1.0, 0.0]), constraints.nonnegative_integer)
    assert advice_on(torch.tensor([0.123456]), constraints.nonnegative_integer).startswith("give counts as they were")


def refused(likelihood, data):
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), likelihood, len(data))
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(data.shape[1], 2, hidden=3), len(data))
    with pytest.raises(aevb.InputError) as error:
        list(aevb.Trainer(model, guide, data, batch_size=5, device="cpu").run(10))
    return str(error.value)


@pytest.mark.parametrize("name", ["DiscretizedLogistic", "Categorical"])
def test_the_steps_that_are_advised_are_right(name):
    """Digits have 17 grey levels: 'scale the data' was no advice."""
    data = aevb.data.load("digits", binarize="none").train[:20]
    make = getattr(aevb.likelihoods, name)
    said = refused(make(2, 64, hidden=3), data)
    assert re.fullmatch(
        r"data row \d+ lies outside the likelihood's support, multiples of 1/255 between 0 and 1, with 0\.\d+: "
        "these are multiples of 1/16: give the likelihood steps=16",
        said,
    )
    model = aevb.GenerativeModel(aevb.priors.StandardNormal(2), make(2, 64, hidden=3, steps=16), 20)
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(64, 2, hidden=3), 20)
    assert len(list(aevb.Trainer(model, guide, data, batch_size=5, device="cpu").run(10))) == 1


def test_counts():
    data = torch.tensor([[0.0, 1.0, 2.0]] * 4 + [[0.0, 0.5, 1.0]] * 4)
    said = refused(aevb.likelihoods.Poisson(2, 3, hidden=3), data)
    assert said == (
        "data row 4 lies outside the likelihood's support, whole numbers of at least 0, with 0.5: times 2 they are "
        "whole numbers; give counts as they were counted, undivided, or take a likelihood of real numbers, Gaussian say"
    )


def test_a_support_of_whole_rows_names_no_value():
    x = torch.tensor([[0.2, 0.8], [0.5, 0.6]])
    site = Observed("x", x, constraints.simplex, takes_nan=False)
    with pytest.raises(aevb.InputError, match=r"^data row 1 lies outside .*, numbers of at least 0 that sum to 1: div"):
        check_values(x, site)
