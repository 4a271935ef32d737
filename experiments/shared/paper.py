"""The paper's own curves: those of its Figures 2 and 3, point by point, and their values in between."""

import csv
import functools
from pathlib import Path

FOLDER = Path(__file__).parent / "paper_curves"

Curve = list[tuple[float, float]]  # samples, and nats per datum


@functools.cache
def curves(name: str) -> dict[tuple[str, ...], Curve]:
    """All curves of one figure, each by the words that tell it from others."""
    found: dict[tuple[str, ...], Curve] = {}
    with (FOLDER / f"{name}.csv").open() as file:
        for *words, samples, nats in list(csv.reader(file))[1:]:
            found.setdefault(tuple(words), []).append((float(samples), float(nats)))
    return {words: sorted(curve) for words, curve in found.items()}


def figure2(data: str, latent_dim: int, method: str, split: str) -> Curve:
    """A curve of Figure 2, the bound in nats per datum; ``method`` is AEVB or WS, ``split`` train or test."""
    return curves("figure2")[data, str(latent_dim), f"{method}_{split}"]


def figure3(size: int, method: str, split: str) -> Curve:
    """A curve of Figure 3, log p(x) in nats per datum; empty for a method that the paper does not have."""
    return curves("figure3").get((str(size), f"{method}_{split}"), [])


def at(curve: Curve, samples: float) -> float | None:
    """The curve's value at so many samples, on the line between its nearest points; ``None`` outside of it."""
    below = [p for p in curve if p[0] <= samples]
    above = [p for p in curve if p[0] >= samples]
    if not below or not above:
        return None
    (a, low), (b, high) = below[-1], above[0]
    return low if a == b else low + (high - low) * (samples - a) / (b - a)
