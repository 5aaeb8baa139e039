"""The order of rows: permutations, their independence, and that it never changes."""

import numpy as np
import pytest

from equimu.data import _order as order
from equimu.data._order import ShuffledOrder


@pytest.fixture(params=["drawn", "place by place"])
def way(request, monkeypatch):
    if request.param != "drawn":
        monkeypatch.setattr(order, "_DRAWN_AT_ONCE", 0)
    return request.param


@pytest.mark.parametrize("count", [1, 2, 3, 100, 257])
def test_every_row_once_an_epoch(way, count):
    shuffled = ShuffledOrder(count, seed=3)
    for epoch in range(3):
        rows = shuffled(np.arange(epoch * count, (epoch + 1) * count))
        assert sorted(rows.tolist()) == list(range(count))


def test_places_may_be_asked_in_any_order_and_span_epochs(way):
    shuffled = ShuffledOrder(50, seed=1)
    whole = shuffled(np.arange(500))
    places = np.random.default_rng(0).permutation(500)
    np.testing.assert_array_equal(shuffled(places), whole[places])
    assert [shuffled(np.array([p]))[0] for p in range(0, 500, 49)] == whole[::49].tolist()


def test_epochs_and_seeds_share_nothing(way):
    """Permutations agree in one place on average (Poisson), those of adjacent seeds and epochs as well."""
    count = 200
    drawn = [
        ShuffledOrder(count, seed)(np.arange(epoch * count, (epoch + 1) * count))
        for seed in (-1, 0, 1, 2, 2**40)
        for epoch in range(3)
    ]
    agree = [(a == b).sum() for i, a in enumerate(drawn) for b in drawn[:i]]
    assert max(agree) <= 8 and 0.5 < np.mean(agree) < 1.5


def test_rows_are_spread_evenly(way):
    """First place of many epochs: uniform over the rows (chi-square, 49 degrees of freedom)."""
    count, epochs = 50, 2000
    first = ShuffledOrder(count, seed=9)(np.arange(epochs) * count)
    expected = epochs / count
    statistic = ((np.bincount(first, minlength=count) - expected) ** 2 / expected).sum()
    assert 20 < statistic < 95


def test_the_order_never_changes(way):
    """A change here would silently give resumed and repeated runs other data."""
    rows = ShuffledOrder(100_000, seed=7)(np.array([0, 1, 99_999, 100_000, 12_345_678]))
    expected = {
        "drawn": [63728, 46512, 7543, 96387, 71733],
        "place by place": [2491, 80280, 14046, 53365, 30054],
    }
    assert rows.tolist() == expected[way]


def test_large_counts_take_no_memory():
    rows = ShuffledOrder(2**31, seed=0)(np.arange(2**31 - 4, 2**31 + 4))
    assert len(set(rows.tolist())) == 8 and 0 <= rows.min() and rows.max() < 2**31
