"""Errors over data and over seeds, intervals, p-values and verdicts: against SciPy, and simulations of known truth."""

import math

import numpy as np
import pytest
from scipy import stats

from pyro_aevb import InputError
from pyro_aevb.reports.statistics import (
    Difference,
    Estimate,
    difference,
    holm,
    mean_of_trainings,
    number,
    verdict,
)


def simulated(chance, trainings, count, seeds=1.0, data=1.0, rest=1.0):
    """Numbers of R trainings and N data whose mean is 0, from the three effects' standard deviations."""
    shapes = (trainings, 1), (1, count), (trainings, count)
    return sum(scale * chance.standard_normal(shape) for scale, shape in zip((seeds, data, rest), shapes, strict=True))


def constant_in_data(values, count=7):
    """One number a training, the same for each datum: seeds alone have an effect."""
    return np.repeat(np.asarray(values)[:, None], count, axis=1)


def test_errors_over_data_and_over_seeds_are_those_of_means_over_the_other():
    values = simulated(np.random.default_rng(0), 4, 30)
    found = mean_of_trainings(values)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert found.se_data == pytest.approx(stats.sem(values.mean(0)), rel=1e-12)
    assert found.se_seeds == pytest.approx(stats.sem(values.mean(1)), rel=1e-12)
    assert (found.df_data, found.df_seeds) == (29, 3)


def test_the_variance_over_both_is_that_of_the_analysis_of_variance():
    """(MS seeds + MS data - MS remainder) / RN, from sums of squares that are written out one by one."""
    values = simulated(np.random.default_rng(1), 3, 10, seeds=2.0, data=3.0)
    rows, columns, grand = values.mean(1), values.mean(0), values.mean()
    ms_seeds = sum(10 * (row - grand) ** 2 for row in rows) / 2
    ms_data = sum(3 * (column - grand) ** 2 for column in columns) / 9
    rest = [(values[r, i] - rows[r] - columns[i] + grand) ** 2 for r in range(3) for i in range(10)]
    expected = (ms_seeds + ms_data - sum(rest) / 18) / 30
    assert mean_of_trainings(values).se ** 2 == pytest.approx(expected, rel=1e-12)


def test_its_square_is_the_variance_of_the_mean_on_average():
    chance = np.random.default_rng(2)
    found = [mean_of_trainings(simulated(chance, 3, 20, seeds=1.0, data=2.0, rest=1.5)) for _ in range(3000)]
    truth = 1.0 / 3 + 2.0**2 / 20 + 1.5**2 / 60
    squares = np.array([each.se**2 for each in found])
    assert squares.mean() == pytest.approx(truth, abs=4 * stats.sem(squares))
    assert np.var([each.mean for each in found]) == pytest.approx(truth, rel=0.1)


def test_it_is_never_below_either_share():
    """Rows and columns that are equal but for the remainder: chance makes the sum less the remainder's share small."""
    chance = np.random.default_rng(3)
    for _ in range(200):
        found = mean_of_trainings(simulated(chance, 3, 8, seeds=0.0, data=0.0))
        assert found.se >= max(found.se_data, found.se_seeds) - 1e-12


EFFECTS = [  # trainings, data, effects of seeds, of data, remainder
    (2, 60, 0.3, 1.0, 0.5),
    (3, 60, 0.3, 1.0, 0.5),
    (5, 60, 0.3, 1.0, 0.5),
    (5, 60, 0.0, 1.0, 0.3),
    (5, 60, 1.0, 0.1, 0.1),
    (10, 60, 0.2, 1.0, 1.0),
]


@pytest.mark.parametrize("effects", EFFECTS)
def test_95_of_100_intervals_cover_the_truth_where_seeds_and_data_have_effects(effects):
    chance = np.random.default_rng(4)
    intervals = [mean_of_trainings(simulated(chance, *effects)).interval() for _ in range(1500)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1500) <= covered <= 0.995


@pytest.mark.parametrize("paired", [True, False])
def test_so_do_intervals_of_differences(paired):
    """Effects that both settings share, of data and, where seeds are paired, of seeds, cancel."""
    chance = np.random.default_rng(5)
    covered = []
    for _ in range(1500):
        of_data = 5.0 * chance.standard_normal((1, 60))
        of_seeds = 2.0 * chance.standard_normal((3, 1)) if paired else 0.0
        first = of_data + of_seeds + simulated(chance, 3, 60, 0.3, 0.5, 0.5)
        second = of_data + of_seeds + simulated(chance, 3 if paired else 5, 60, 0.6, 0.5, 0.5)
        low, high = difference(first, second, paired).estimate.interval()
        covered.append(low <= 0 <= high)
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1500) <= np.mean(covered) <= 0.995


def test_seeds_alone_are_the_t_test_of_pairs():
    chance = np.random.default_rng(6)
    first, second = chance.standard_normal((2, 5))
    found = difference(constant_in_data(first), constant_in_data(second), paired=True)
    expected = stats.ttest_rel(first, second)
    low, high = expected.confidence_interval(0.9)
    assert found.paired
    assert found.estimate.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.estimate.interval(0.9) == pytest.approx((low, high), rel=1e-9)


def test_seeds_alone_of_two_kinds_are_welchs_test():
    chance = np.random.default_rng(7)
    first, second = chance.standard_normal(4), 1 + 3 * chance.standard_normal(6)
    found = difference(constant_in_data(first), constant_in_data(second), paired=False)
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert found.estimate.df_seeds == pytest.approx(expected.df, rel=1e-9)
    assert found.estimate.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    interval = expected.confidence_interval(0.95)
    assert found.estimate.interval() == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize("paired", [True, False])
def test_one_seed_each_is_the_t_test_over_data_and_nothing_is_known_of_seeds(paired):
    first, second = np.random.default_rng(8).standard_normal((2, 1, 40))
    found = difference(first, second, paired).estimate
    expected = stats.ttest_rel(first[0], second[0])
    assert found.p_value() == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.se_data == pytest.approx(stats.sem(first[0] - second[0]), rel=1e-12)
    assert math.isnan(found.se_seeds)
    assert math.isnan(found.se)


def test_one_seed_of_one_setting_leaves_seeds_unknown_too():
    chance = np.random.default_rng(9)
    found = difference(simulated(chance, 3, 20), simulated(chance, 1, 20), paired=False).estimate
    assert math.isnan(found.se)
    assert found.se_data > 0


def test_pairing_data_takes_away_what_they_share():
    chance = np.random.default_rng(10)
    of_data = 9.0 * chance.standard_normal((1, 100))
    first, second = (of_data + simulated(chance, 4, 100, 0.01, 0.1, 0.1) for _ in range(2))
    found = difference(first, second, paired=True).estimate
    assert mean_of_trainings(first).se > 0.7
    assert found.se < 0.03


def test_one_number_a_training_has_no_error_over_data():
    found = mean_of_trainings(np.array([[1.0], [2.0], [4.0]]))
    assert math.isnan(found.se_data)
    assert found.se == found.se_seeds == pytest.approx(stats.sem([1.0, 2.0, 4.0]))


def test_no_difference_at_all_has_the_p_value_1_and_a_constant_one_0():
    same = constant_in_data([1.0, 2.0])
    assert difference(same, same, paired=True).estimate.p_value() == 1
    assert difference(same + 1, same, paired=True).estimate.p_value() == 0


def test_tiny_p_values_are_told():
    assert 0 < Estimate(50.0, 0.1, 0.1, 0.14, 99, 4).p_value() < 1e-6
    assert Estimate(1e9, 1e-3, math.nan, math.nan, 999, math.nan).p_value() == 1e-100


@pytest.mark.parametrize(
    ("first", "second", "paired"),
    [
        (np.zeros(3), np.zeros((1, 3)), False),
        (np.zeros((1, 3)), np.zeros((1, 4)), False),
        (np.zeros((2, 3)), np.zeros((3, 3)), True),
        ([[1.0]], np.zeros((1, 1)), True),
    ],
)
def test_tables_that_do_not_belong_together_are_refused(first, second, paired):
    with pytest.raises(InputError, match=r"give the same data, and seeds|must be an array"):
        difference(first, second, paired)


def rejected(p_values, level):
    """Holm's procedure as he wrote it: go down from the smallest, stop at the first that is too large."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found = set()
    for place, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - place):
            break
        found.add(i)
    return found


def test_holms_correction_rejects_what_his_procedure_does():
    chance = np.random.default_rng(11)
    for _ in range(200):
        p_values = (chance.random(6) ** 3).tolist()
        corrected = holm(p_values)
        for level in (0.01, 0.05, 0.2):
            assert {i for i, p in enumerate(corrected) if p <= level} == rejected(p_values, level)


def test_what_is_not_known_does_not_count():
    assert holm([0.02, math.nan, 0.5])[::2] == [0.04, 0.5]
    assert math.isnan(holm([0.02, math.nan])[1])
    assert holm([]) == []


def test_of_equal_settings_one_of_twenty_comparisons_at_most_shows_a_difference():
    """Four settings that are worth the same, six comparisons: any is called a difference with probability 0.05."""
    chance = np.random.default_rng(12)
    wrong = 0
    for _ in range(400):
        of_data = chance.standard_normal((1, 40))
        each = [of_data + simulated(chance, 5, 40, 0.3, 0.3, 0.3) for _ in range(4)]
        pairs = [(i, j) for i in range(4) for j in range(i)]
        wrong += min(holm([difference(each[i], each[j], True).estimate.p_value() for i, j in pairs])) <= 0.05
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


# ---------------------------------------------------------------- words

BOTH = Difference(Estimate(1.0, 0.06, 0.08, 0.1, 999, 4.0), True)
ONE = Difference(Estimate(-1.0, 0.1, math.nan, math.nan, 999, math.nan), True)


def test_a_verdict_names_the_better_one_the_error_and_what_seeds_can_show():
    names = ("Laplace", "StandardNormal")
    better = "Laplace is better than StandardNormal by 1.00 ± 0.10 nats per datum (p = 0.0005)"
    assert verdict(names, BOTH, 0.0005, (5, 5)) == better
    none = (
        "no difference between Laplace and StandardNormal that 5 seeds can show: 1.00 ± 0.10 nats per datum (p = 0.2)"
    )
    assert verdict(names, BOTH, 0.2, (5, 5)) == none
    assert "that 5 and 3 seeds can show" in verdict(names, BOTH, 0.2, (5, 3))
    assert "Laplace is larger than" in verdict(names, BOTH, 0.00001, (5, 5), better=False)
    assert "(p < 0.0001)" in verdict(names, BOTH, 0.00001, (5, 5))


def test_with_one_seed_it_says_that_seeds_are_unknown():
    said = verdict(("a", "b"), ONE, 0.001, (1, 1))
    assert said == "b is better than a by 1.00 ± 0.10 nats per datum (p = 0.001) on these data, and seeds are unknown"
    assert "on these data, and seeds are unknown" in verdict(("a", "b"), ONE, 0.5, (1, 1))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [(-1234.5, 0.3, "-1,234.50"), (0.12345, 0.004, "0.1235"), (2.0, math.nan, "2.00"), (math.nan, 1.0, "")],
)
def test_numbers_have_as_many_digits_as_their_errors_need(value, error, words):
    assert number(value, error) == words
