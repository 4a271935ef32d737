"""Each private name of torch that the package leans on, used as it is used there: a version that moves one fails here.

So does one that keeps a public name, but not what the package knows of it without being promised.
"""

import ast
import multiprocessing
import re
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch
from torch import distributions as td

import pyro_aevb
from pyro_aevb import distributions as ours
from pyro_aevb import pyro_internals
from pyro_aevb import torch_internals as internals
from pyro_aevb.pairs import own_module

PACKAGE = Path(pyro_aevb.__file__).parent

HOMES = {"torch_internals.py", "pyro_internals.py", "recording.py"}  # the last is all that the compiler is used in

NAMED_TUPLES = {"_asdict", "_replace", "_fields"}  # public, by Python's documentation


def private_names(path):
    """Names with one ``_`` in front that are imported, or read of an object and torch's; ``self`` has its own."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(("torch", "pyro.")):
            yield from (part for part in [*node.module.split("."), *(a.name for a in node.names)] if is_private(part))
        if isinstance(node, ast.Import):
            yield from (part for a in node.names for part in a.name.split(".") if is_private(part))
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if node.attr in (DISTRIBUTIONS if own else TORCHS):
                yield node.attr


def is_private(name):
    return name.startswith("_") and not name.startswith("__") and name not in NAMED_TUPLES


def names_of(thing):
    return {name for name in dir(thing) if is_private(name)}


DISTRIBUTIONS = set.union(  # which ours inherit, so that they are read of ``self`` too
    names_of(td.LowRankMultivariateNormal(torch.zeros(2), torch.zeros(2, 1), torch.ones(2))),
    names_of(td.MultivariateNormal(torch.zeros(2), torch.eye(2))),
)
TORCHS = set.union(
    DISTRIBUTIONS,
    names_of(torch),
    names_of(torch.Tensor),
    names_of(torch.nn.Module()),
    names_of(torch.optim.Optimizer),
    names_of(pyro.distributions.Normal(0.0, 1.0).mask(True)),
    names_of(td.kl),
    names_of(torch.ops.aten),
    names_of(pyro.nn.PyroModule()),
    names_of(pyro.optim.Adam({})),
)


def test_private_names_stand_in_one_module():
    found = {path.name: {*private_names(path)} for path in sorted(PACKAGE.rglob("*.py"))}
    assert {name for name, names in found.items() if names} == HOMES
    assert found["recording.py"] == {"_guards", "_inductor", "_subclasses"}  # see tests/engines/test_recording.py


def test_private_names_are_found(tmp_path):
    (tmp_path / "one.py").write_text(
        "import torch._dynamo\nfrom torch._guards import tracing\nfrom pyro.poutine.runtime import _PYRO_STACK\n"
        "x = torch._foreach_add([], [])\nrow._asdict()\nself._own\nself._validate_args\nother.part._version\n"
    )
    expected = {"_dynamo", "_guards", "_PYRO_STACK", "_foreach_add", "_validate_args", "_version"}
    assert {*private_names(tmp_path / "one.py")} == expected


# ---------------------------------------------------------------- torch's


def test_versions_count_writes_in_place():
    x = torch.zeros(3)
    before = internals.version_of(x)
    x.add_(1)
    assert internals.version_of(x) == before + 1
    x + 1
    assert internals.version_of(x) == before + 1


def test_kernels_over_lists_are_the_operations_one_by_one():
    a, b = ([torch.randn(3), torch.randn(2, 2)] for _ in range(2))
    expected = [x.clone() for x in a]
    found = internals.foreach_add(a, b, alpha=0.5)
    expected = [x + 0.5 * y for x, y in zip(a, b, strict=True)]
    torch.testing.assert_close(found, expected)
    internals.foreach_addcmul_(found, b, b)
    expected = [x + y * y for x, y in zip(expected, b, strict=True)]
    torch.testing.assert_close(found, expected)
    internals.foreach_mul_(found, 2.0)
    internals.foreach_add_(found, 1.0)
    expected = [2 * x + 1 for x in expected]
    torch.testing.assert_close(found, expected)
    internals.foreach_addcdiv_(found, a, b, value=-1)
    expected = [x - y / z for x, y, z in zip(expected, a, b, strict=True)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(internals.foreach_sqrt([x * x for x in a]), [x.abs() for x in a])


def test_torch_marks_a_step_that_runs_hooks():
    class Own(torch.optim.SGD):
        def step(self, closure=None):
            return "stepped"

    optimizer = Own([torch.zeros(1, requires_grad=True)], lr=0.1)
    called = []
    optimizer.register_step_post_hook(lambda *_: called.append(1))
    assert Own.step.hooked
    assert optimizer.step() == "stepped"
    assert called == [1]
    assert internals.step_without_hooks(optimizer.step, None) == "stepped"
    assert called == [1]


def test_values_are_looked_at_where_a_distribution_validates():
    value = torch.tensor(-1.0)
    with pytest.raises(ValueError, match="support"):
        internals.checked(td.Exponential(torch.ones(()), validate_args=True), value)
    assert internals.checked(td.Exponential(torch.ones(()), validate_args=False), value) is value


def test_the_shape_of_draws():
    normal = td.MultivariateNormal(torch.zeros(4, 2), torch.eye(2))
    assert internals.drawn_shape(normal, (3,)) == (3, 4, 2) == normal.sample((3,)).shape


@pytest.mark.parametrize("validate", [True, False])
def test_expanded_copies_keep_how_they_validate(validate):
    rayleigh = ours.Rayleigh(torch.tensor(2.0), validate_args=validate)
    copy = rayleigh.expand((3,))
    assert type(copy) is ours.Rayleigh
    assert copy.batch_shape == (3,)
    assert copy.scale.tolist() == [2.0] * 3
    if validate:
        with pytest.raises(ValueError, match="support"):
            copy.log_prob(torch.tensor(-1.0))
    else:
        assert copy.log_prob(torch.tensor(-1.0)).isnan().all()


def test_a_subclass_with_another_init_must_expand_itself():
    class Doubled(ours.GridCategorical):
        def __init__(self, logits, more):
            super().__init__(torch.cat([logits, more], -1))

    with pytest.raises(NotImplementedError):
        Doubled(torch.zeros(2), torch.zeros(3)).expand((4,))


def test_a_scale_is_kept_as_it_was_given():
    factor = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    normal = td.MultivariateNormal(torch.zeros(5, 2), scale_tril=factor)
    assert internals.scale_tril_of(normal).shape == (2, 2)
    assert torch.equal(internals.scale_tril_of(normal), factor)
    assert normal.scale_tril.shape == (5, 2, 2)


def test_torchs_closed_forms_read_the_factors_that_are_kept():
    loc, factor, diagonal = torch.randn(3, 4), torch.randn(3, 4, 2), torch.rand(3, 4) + 0.5
    precise = ours.PreciseLowRankMultivariateNormal(loc, factor, diagonal)
    oracle = td.LowRankMultivariateNormal(loc, factor, diagonal)
    other = td.LowRankMultivariateNormal(torch.zeros(4), torch.ones(4, 1), torch.ones(4))
    full = td.MultivariateNormal(torch.zeros(4), torch.eye(4))
    for p in (other, full):
        torch.testing.assert_close(td.kl_divergence(precise, p), td.kl_divergence(oracle, p))
        torch.testing.assert_close(td.kl_divergence(p, precise), td.kl_divergence(p, oracle))
        torch.testing.assert_close(
            td.kl_divergence(precise.expand((2, 3)), p), td.kl_divergence(oracle, p).expand(2, 3)
        )
    torch.testing.assert_close(precise.covariance_matrix, oracle.covariance_matrix)
    torch.testing.assert_close(precise.precision_matrix, oracle.precision_matrix)
    torch.testing.assert_close(precise.scale_tril, oracle.scale_tril)
    torch.testing.assert_close(precise.variance, oracle.variance)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = precise.rsample((2,))
        torch.manual_seed(0)
        torch.testing.assert_close(found, oracle.rsample((2,)))


def test_hooks_are_found_where_torch_keeps_them():
    weight = torch.nn.Parameter(torch.ones(2))
    assert not internals.has_backward_hooks(weight)
    handle = weight.register_hook(lambda gradient: gradient)
    assert internals.has_backward_hooks(weight)
    handle.remove()
    assert not internals.has_backward_hooks(weight)
    weight.register_post_accumulate_grad_hook(lambda _: None)
    assert internals.has_backward_hooks(weight)


@pytest.mark.parametrize(
    "register",
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook",
     "register_full_backward_pre_hook"],
)  # fmt: skip
def test_hooks_of_modules_are_found(register):
    module = torch.nn.Linear(2, 2)
    assert internals.hooks_of(module) == []
    hook = getattr(module, register)(lambda *_: None)
    assert len(internals.hooks_of(module)) == 1
    hook.remove()
    assert internals.hooks_of(module) == []


def test_layers_with_running_statistics_have_one_base():
    layers = (
        torch.nn.BatchNorm1d(2),
        torch.nn.LazyBatchNorm2d(),
        torch.nn.SyncBatchNorm(2),
        torch.nn.InstanceNorm3d(2),
    )
    assert all(isinstance(layer, internals.BATCH_NORMALISATION) for layer in layers)
    assert not isinstance(torch.nn.LayerNorm(2), internals.BATCH_NORMALISATION)


def test_a_traced_graph_holds_casts_by_this_operation():
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(lambda x: x.double())(torch.ones(2))
    assert internals.to_copy in [node.target for node in graph.graph.nodes]
    assert internals.to_copy(torch.ones(2), dtype=torch.float64).dtype == torch.float64


def test_whether_a_distribution_looks_at_values():
    assert internals.validates(td.Normal(0.0, 1.0))
    assert internals.validates(td.Normal(0.0, 1.0, validate_args=True))
    assert not internals.validates(td.Normal(0.0, 1.0, validate_args=False))


def test_closed_forms_are_of_the_class_itself():
    class Own(td.Normal):
        pass

    assert internals.has_closed_form(td.Normal)
    assert not internals.has_closed_form(Own)
    assert td.kl_divergence(Own(0.0, 1.0), td.Normal(0.0, 1.0)) == 0  # by its base


# ---------------------------------------------------------------- Pyro's


def test_constrained_parameters_are_told_from_those_of_a_like_name():
    class Own(pyro.nn.PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = pyro.nn.PyroParam(torch.tensor(2.0), constraint=td.constraints.positive)
            self.free_unconstrained = torch.nn.Parameter(torch.ones(()))

    module = Own()
    found = pyro_internals.constrained_parameters(module)
    assert list(found) == ["scale"]
    torch.testing.assert_close(found["scale"].exp(), module.scale)


def test_straight_through_values_are_marked():
    probabilities = torch.tensor([0.2, 0.8])
    relaxed = pyro.distributions.RelaxedOneHotCategoricalStraightThrough(torch.tensor(0.5), probs=probabilities)
    assert pyro_internals.is_straight_through(relaxed.rsample())
    assert not pyro_internals.is_straight_through(pyro.distributions.OneHotCategorical(probabilities).sample())


def test_pyro_makes_an_optimizer_for_a_parameter():
    weight = torch.nn.Parameter(torch.ones(2))
    with pyro.get_param_store().scope():
        made = pyro_internals.made_by(pyro.optim.Adam({"lr": 0.5}), weight)
        assert isinstance(made, torch.optim.Adam)
        assert made.param_groups[0]["lr"] == 0.5
        assert made.param_groups[0]["params"][0] is weight
        arguments = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.5}, "gamma": 0.1}
        scheduled = pyro_internals.made_by(pyro.optim.ExponentialLR(arguments), weight)
        assert isinstance(scheduled.optimizer, torch.optim.SGD)


# ---------------------------------------------------------------- public, but only by how it is


def test_a_handlers_function_is_a_partial_of_handler_and_function():
    """``pairs.own_module`` looks behind Pyro's handlers: each binds itself and the function, in this order."""
    net = torch.nn.Linear(1, 1)
    handled = pyro.poutine.scale(pyro.poutine.mask(net, mask=True), scale=2.0)
    assert own_module(handled) is net
    assert own_module(partial(handled, torch.zeros(1))) is net
    assert own_module(pyro.poutine.scale(net.forward, scale=2.0)) is net


def test_pyros_table_of_shapes_begins_as_it_is_cut_off():
    """``errors.SHAPES``: an error raised in a model comes with a table, and is cut where that begins."""

    def model():
        with pyro.plate("data", 3):
            pyro.sample("z", ours.Rayleigh(torch.ones(3)))
        raise pyro_aevb.InputError("give another")

    with pytest.raises(pyro_aevb.InputError) as caught:
        pyro.poutine.trace(model).get_trace()
    assert re.search(r"Trace Shapes:.*\bz dist\b", caught.value.args[0], re.DOTALL)
    assert str(caught.value) == "give another"


def test_a_masked_distribution_tells_its_mask():
    mask = torch.tensor([True, False])
    assert pyro_internals.own_mask(pyro.distributions.Normal(torch.zeros(2), 1.0).mask(mask)) is mask


def test_hooks_of_all_modules_and_of_an_optimizer_are_told():
    assert not internals.global_hooks()
    handles = [torch.nn.modules.module.register_module_forward_hook(print)]
    handles.append(torch.nn.modules.module.register_module_forward_pre_hook(print))
    handles.append(torch.nn.modules.module.register_module_full_backward_hook(print))
    handles.append(torch.nn.modules.module.register_module_full_backward_pre_hook(print))
    try:
        assert internals.global_hooks() == [print] * 4
    finally:
        for handle in handles:
            handle.remove()
    for register in ("register_step_pre_hook", "register_step_post_hook"):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        assert not internals.has_step_hooks(optimizer)
        getattr(optimizer, register)(print)
        assert internals.has_step_hooks(optimizer)


def test_validation_of_a_distribution_that_is_there_is_switched():
    normal = td.Normal(0.0, 1.0, validate_args=True)
    internals.set_validation(normal, False)
    assert not internals.validates(normal)
    normal.log_prob(torch.tensor(float("nan")))
    internals.set_validation(normal, True)
    with pytest.raises(ValueError, match="nan"):
        normal.log_prob(torch.tensor(float("nan")))


def test_a_failed_allocation_is_told_by_torchs_words():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert internals.is_failed_allocation(refused.value)
    assert not internals.is_failed_allocation(RuntimeError("shapes do not match"))


# ---------------------------------------------------------------- loaders


def test_workers_end_when_they_are_told_to():
    loader = torch.utils.data.DataLoader(list(range(9)), num_workers=1, generator=torch.Generator())
    iterator = iter(loader)
    next(iterator)
    assert multiprocessing.active_children()
    internals.end_workers(iterator)
    assert not multiprocessing.active_children()
    internals.end_workers(iterator)
    internals.end_workers(iter(torch.utils.data.DataLoader([1])))
