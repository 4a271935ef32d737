"""Whose code a class or function is."""

import numpy as np
import pyro
import torch

from pyro_aevb.optimizers import Adagrad
from pyro_aevb.origins import comes_from


class Own(torch.optim.Adam):
    pass


def test_where_classes_and_functions_come_from():
    assert comes_from(torch.optim.Adam, "torch")
    assert comes_from(pyro.optim.clipped_adam.ClippedAdam, "torch", "pyro")
    assert comes_from(np.ndarray, "numpy")
    assert comes_from(int, "builtins")
    assert comes_from(Adagrad, "pyro_aevb")
    assert not comes_from(Adagrad, "pyro")  # the name of a package, not how it begins
    assert not comes_from(Own, "torch")
    assert not comes_from(lambda: None, "torch", "builtins")


def test_code_without_a_module_comes_from_nowhere():
    scope = {}
    exec("def function(): pass", {"__name__": None}, scope)
    assert scope["function"].__module__ is None
    assert not comes_from(scope["function"], "torch")
