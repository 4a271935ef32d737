"""A pair as an estimator of scikit-learn: for its pipelines, searches and data frames.

::

    vae = aevb.sklearn.VAE(latent_dim=2, random_state=0).fit(frame)
    vae.transform(frame)         # posterior means, (N, K)
    vae.score_samples(frame)     # log p(x) of each row, nats

It trains what :class:`~pyro_aevb.Trainer` would train, bit for bit, and adds no mathematics of its own.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.infer import ELBO
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from pyro_aevb import evidence, predictions
from pyro_aevb.data.cells import Cells, Table
from pyro_aevb.data.schema import Column, Schema
from pyro_aevb.data.tables import Roles, find_schema, is_table, read_table
from pyro_aevb.errors import InputError, did_you_mean, flag, instance, maker, positive, real, told, whole
from pyro_aevb.evidence import WeightSums
from pyro_aevb.guides import Guide
from pyro_aevb.likelihoods import Bernoulli, Columns
from pyro_aevb.likelihoods.base import Likelihood
from pyro_aevb.models import GenerativeModel, RecognitionModel
from pyro_aevb.nn import Activation
from pyro_aevb.pairs import evaluating
from pyro_aevb.priors.base import Prior
from pyro_aevb.runs.offered import offered
from pyro_aevb.seeds import derive, seeded
from pyro_aevb.training.trainer import EngineName, Trainer
from pyro_aevb.views import with_bar

__all__ = ["VAE"]

REPORTS = 20
"""Number of reports of the bound during a fit."""

DECODED_AT_ONCE = 1000  # latents

Make = Callable[..., Any]


class VAE(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]  # scikit-learn has no types
    TransformerMixin,  # type: ignore[misc]
    DensityMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    r"""Variational auto-encoder: a model p(z) p(x|z) of data and its guide q(z|x), trained together by the bound.

    As a transformer it maps a row to the mean of q(z|x), as PCA maps it to its principal components; as a density it
    scores a row by its log p(x), as ``sklearn.mixture.GaussianMixture`` does.

    A part, prior, likelihood or guide, is given by its class's name, in upper or lower case; by the class; or by what
    makes one: a ``functools.partial``, or any function of the two sizes that the class takes first. ``hidden`` and
    ``activation`` go to parts whose networks they suit, unless a ``partial`` says otherwise.

    Arguments:
        latent_dim: Number of latent dimensions K.
        hidden: Number of units in each hidden layer of likelihood and guide: a list, or a number for one layer.
        activation: Activation of likelihood and guide, by its name in ``torch.nn`` or as a callable that makes it.
        likelihood: The likelihood p(x|z). ``auto`` follows the data: of an array of zeros and ones it is
            :class:`~pyro_aevb.likelihoods.Bernoulli`; of other arrays :class:`~pyro_aevb.likelihoods.Columns` of real
            numbers; of a data frame :class:`~pyro_aevb.likelihoods.Columns` by the kind of each column, which
            :func:`pyro_aevb.data.load` would find too: real, count, binary or category. Categories that pandas'
            ``category`` or polars' ``Enum`` declares are known even where no row has them.
        prior: The prior p(z).
        guide: The guide q(z|x).
        estimator: The objective, by its class's name, as a class, or as any ``pyro.infer.ELBO``.
        optimizer: What makes an optimizer of parameters, or the name of one of ``torch.optim`` or
            :mod:`pyro_aevb.optimizers`. By default the paper's: Adagrad with step size 0.02 and a prior N(0, I) on all
            weights.
        lr: Step size of the optimizer; by default its own. With the default optimizer it is Adagrad's.
        samples: Number of training data to visit in all: 100,000 is a hundred epochs of a thousand rows.
        batch_size: Number of data in a minibatch; all of them, where there are fewer.
        num_samples: Number of importance samples for each row that is scored.
        missing: Whether NaN, and an empty cell of a frame, mean that a value is missing: then the bound and log p(x)
            are those of what was observed. Else they are refused.
        kinds: Kind of a frame's columns by name, ``real``, ``count``, ``binary`` or ``category``, where it is not the
            one that their values suggest.
        engine: How a step is taken, as for :class:`~pyro_aevb.Trainer`.
        device: Where it is taken, likewise; model and guide stay there.
        verbose: Whether to show a bar while training.
        random_state: Seed of initial weights, order of the data and noise; a ``numpy.random.RandomState``, of which
            one number is drawn; or ``None`` for a new seed at each fit, from the operating system. No global generator
            is read or seeded.

    Attributes:
        model_: The trained :class:`~pyro_aevb.GenerativeModel`, in ``eval()``.
        guide_: The trained :class:`~pyro_aevb.RecognitionModel`, in ``eval()``.
        history_: The reports of the training, a list of :class:`~pyro_aevb.Progress`.
        seed_: Seed of this fit, a whole number; all later draws come from it too.
        schema_: How a frame's columns become numbers, a :class:`~pyro_aevb.data.Schema`; ``None`` of an array.
        n_features_in_: Number of columns D.
        feature_names_in_: Names of the columns of a frame, where all are text.

    References:
        | Auto-Encoding Variational Bayes (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        hidden: int | Sequence[int] = 100,
        activation: Activation = "tanh",
        likelihood: str | Make = "auto",
        prior: str | Make = "StandardNormal",
        guide: str | Make = "DiagonalNormal",
        estimator: str | Make | ELBO = "SGVB",
        optimizer: str | Make | None = None,
        lr: float | None = None,
        samples: float = 100_000,
        batch_size: int = 100,
        num_samples: int = 1000,
        missing: bool = False,
        kinds: Mapping[str, str] | None = None,
        engine: EngineName = "auto",
        device: str | torch.device = "auto",
        verbose: bool = False,
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.activation = activation
        self.likelihood = likelihood
        self.prior = prior
        self.guide = guide
        self.estimator = estimator
        self.optimizer = optimizer
        self.lr = lr
        self.samples = samples
        self.batch_size = batch_size
        self.num_samples = num_samples
        self.missing = missing
        self.kinds = kinds
        self.engine = engine
        self.device = device
        self.verbose = verbose
        self.random_state = random_state

    # ------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any = None) -> "VAE":  # noqa: N803  # scikit-learn's name
        """Train a new model and guide on these rows; what was fitted before is forgotten.

        Arguments:
            X: The data: an array, ``(N, D)``, or a data frame of pandas, polars or Arrow.
            y: Not used; it is here since scikit-learn passes it.

        Raises:
            InputError: If an argument of the constructor is not what it must be, or a column says nothing.
            ValueError: If the data are not finite, or fewer than 2 rows, in scikit-learn's words.
            NonFiniteLossError: If the training diverges.
        """
        whole("num_samples", self.num_samples)
        self.seed_ = _seed_of(self.random_state)
        x = self._rows(X, fitting=True)
        self.model_, self.guide_ = self._pair(x)
        trainer = self._trainer(x)
        self.history_ = list(with_bar(trainer, self.samples, self.verbose))
        self.model_.eval()
        self.guide_.eval()
        return self

    def _pair(self, x: Tensor) -> tuple[GenerativeModel, RecognitionModel]:
        """Model and guide of these data, their initial weights from the seed alone, drawn as a run on disk draws them.

        The likelihood is made twice, once to say how the guide is to see the data, so that no draw is used up.
        """
        missing = flag("missing", self.missing)
        dims = whole("latent_dim", self.latent_dim), x.shape[1]
        names = [column.name for column in self.schema_.columns] if self.schema_ else ()
        make_likelihood = self._likelihood(x)
        with seeded(0):
            inputs = _started(_made("likelihood", make_likelihood, Likelihood, *dims), x, names).inputs()
        width = RecognitionModel.input_dim(x.shape[1], missing=missing, inputs=inputs)
        with seeded(derive(self.seed_, "weights")):
            guide = _made("guide", self._maker("guide", Guide), Guide, width, dims[0])
            prior = _made("prior", self._prior(guide), Prior, dims[0])
            likelihood = _made("likelihood", make_likelihood, Likelihood, *dims)
        model = GenerativeModel(prior, _started(likelihood, x, names), len(x), missing=missing)
        return model, RecognitionModel(guide, len(x), missing=missing, inputs=inputs)

    def _likelihood(self, x: Tensor) -> Make:
        """What makes the likelihood; of a table's kinds, where it takes them and was not told any."""
        if isinstance(self.likelihood, str) and self.likelihood == "auto":
            binary = self.schema_ is None and bool(((x == 0) | (x == 1) | x.isnan()).all())
            make = self._with_networks(Bernoulli if binary else Columns)
        else:
            make = self._maker("likelihood", Likelihood)
        if self.schema_ is None:
            return make
        return _given(make, kinds=[column.kind_of_likelihood for column in self.schema_.columns])

    def _prior(self, guide: Guide) -> Make:
        """What makes the prior, with the guide where it takes one."""
        return _given(self._maker("prior", Prior), guide=guide)

    def _maker(self, part: str, kind: type) -> Make:
        """What makes a part, with the networks that were asked for."""
        return self._with_networks(_named(part, getattr(self, part), kind))

    def _with_networks(self, make: Make) -> Make:
        return _given(make, hidden=self.hidden, activation=self.activation)

    def _trainer(self, x: Tensor) -> Trainer:
        samples = real("samples", self.samples, least=1)
        return Trainer(
            self.model_,
            self.guide_,
            x,
            self._estimator(),
            self._optimizer(),
            min(whole("batch_size", self.batch_size), len(x)),
            self.seed_,
            self.engine,
            device=self.device,
            report_every=max(1, int(samples) // REPORTS),
        )

    def _estimator(self) -> ELBO:
        if isinstance(self.estimator, ELBO):
            return deepcopy(self.estimator)  # one that anneals changes in training
        return _made("estimator", _named("estimator", self.estimator, ELBO), ELBO)

    def _optimizer(self) -> Make | None:
        lr = {} if self.lr is None else {"lr": positive("lr", self.lr)}
        if self.optimizer is None and not lr:
            return None
        if self.optimizer is None:
            # The prior on weights as Trainer has it by default, the loss being a sum over all data.
            return partial(_named("optimizer", "Adagrad", object), weight_decay=1, warm_up=0, **lr)
        return partial(_named("optimizer", self.optimizer, object), **lr)

    # ------------------------------------------------------------ what it makes of data

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Mean of q(z|x) of each row, ``(N, K)``, float32; a frame where ``set_output`` asks for one.

        Arguments:
            X: The data, with the columns that it was fitted on.
        """
        check_is_fitted(self)
        return evidence.posterior_means(self.guide_, self._rows(X), seed=self.seed_).cpu().numpy()

    def inverse_transform(self, X: Any) -> Any:  # noqa: N803
        """Mean of p(x|z) at each row of latents, ``(N, D)``; of a category the most probable one.

        Arguments:
            X: The latents, ``(N, K)``.

        Returns:
            An array; where it was fitted on a frame, a frame of the same library with the same columns.
        """
        check_is_fitted(self)
        z = torch.from_numpy(np.array(check_array(X, dtype=np.float32)))
        if z.shape[1] != self.model_.prior.latent_dim:
            raise InputError(f"X has {z.shape[1]} columns, and there are {self.model_.prior.latent_dim} latents")
        place = next((p.device for p in self.model_.parameters()), z.device)
        with torch.no_grad(), seeded(derive(self.seed_, "evaluation"), place), evaluating([self.model_]):
            blocks = [self.model_.likelihood_at(some.to(place)).mean.cpu() for some in z.split(DECODED_AT_ONCE)]
        return self._as_fitted(torch.cat(blocks))

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> Any:
        """Draws of data from the model: z from its own prior, then x from p(x|z).

        Arguments:
            n_samples: Number of rows.
            random_state: Seed of the draws, as for the constructor; by default that of the fit, so that each call
                gives the same rows.

        Returns:
            As :meth:`inverse_transform`.
        """
        check_is_fitted(self)
        seed = self.seed_ if random_state is None else _seed_of(random_state)
        return self._as_fitted(predictions.sample(self.model_, whole("n_samples", n_samples), seed=seed).cpu())

    def score_samples(self, X: Any) -> "np.ndarray[Any, Any]":  # noqa: N803
        """log p(x) of each row by importance sampling, ``(N,)``, nats; larger is better, and the least are anomalies.

        The draws of a row belong to its place among the rows, so that the same rows in another order have other noise:
        :meth:`importance_weights` tells how much.

        Arguments:
            X: The data, with the columns that it was fitted on.
        """
        return self.importance_weights(X).log_likelihood.cpu().double().numpy()

    def importance_weights(self, X: Any) -> WeightSums:  # noqa: N803
        """What :meth:`score_samples` is made of: log p(x), its Monte Carlo standard error, k-hat, ``(N,)`` each.

        Arguments:
            X: The data, with the columns that it was fitted on.
        """
        check_is_fitted(self)
        x = self._rows(X)
        return evidence.importance_weights(self.model_, self.guide_, x, self.num_samples, seed=self.seed_)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803
        """Mean of log p(x) over the rows, nats per datum; what a search maximises.

        Arguments:
            X: The data, with the columns that it was fitted on.
            y: Not used.
        """
        return float(self.score_samples(X).mean())

    def get_feature_names_out(self, input_features: Any = None) -> "np.ndarray[Any, Any]":
        """Names of the latents, ``z0``, ``z1``, ..., as :meth:`pyro_aevb.runs.Run.encode` has them.

        Arguments:
            input_features: Names of the columns of the data, which must be those that it was fitted on; not used.
        """
        count = len(super().get_feature_names_out(input_features))
        return np.array([f"z{k}" for k in range(count)], dtype=object)

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.prior.latent_dim)

    # ------------------------------------------------------------ data

    def _rows(self, X: Any, fitting: bool = False) -> Tensor:  # noqa: N803
        """The data as float32, ``(N, D)``, by the schema of a frame where there is one."""
        if fitting:
            self.schema_ = self._find_schema(X)
            self._frame = _library_and_names(X)
        if self.schema_ is not None:
            _validated(self, X, fitting)
            with _in_words_of_python():
                return self.schema_.rows(_table_of(X, self.schema_), "X").x
        finite: bool | str = "allow-nan" if self.missing else True
        checks = {"dtype": np.float32, "ensure_all_finite": finite, "ensure_min_samples": 2 if fitting else 1}
        array = _validated(self, X, fitting, **checks)
        return torch.from_numpy(np.array(array, dtype=np.float32))  # a copy: what is given may be read-only

    def _find_schema(self, X: Any) -> Schema | None:  # noqa: N803
        """The schema of a frame, for a likelihood that goes by the kinds of its columns; else ``None``."""
        auto = isinstance(self.likelihood, str) and self.likelihood == "auto"
        if not is_table(X) or isinstance(X, str) or not (auto or self._takes_kinds()):
            return None
        table = _table_of(X)
        if len(next(iter(table.values()))) < 2:
            raise InputError("Found a frame with 1 sample while a minimum of 2 is required by VAE.")
        with _in_words_of_python():
            found = find_schema(table, Roles(kinds=dict(self.kinds or {})), flag("missing", self.missing), "X")
        return _with_declared_categories(found, X)

    def _takes_kinds(self) -> bool:
        return "kinds" in _open_arguments(_named("likelihood", self.likelihood, Likelihood))

    def _as_fitted(self, x: Tensor) -> Any:
        """Values of the data as what was fitted: an array, or a frame with its names and words."""
        if self._frame is None:
            return x.numpy()
        import narwhals

        library, names = self._frame
        columns = self.schema_.columns if self.schema_ else [Column(name) for name in names]
        shown = {column.name: column.shown(x[:, i]) for i, column in enumerate(columns)}
        backend: Any = library
        return narwhals.from_dict(shown, backend=backend).to_native()

    # ------------------------------------------------------------ what scikit-learn asks of an estimator

    def __sklearn_tags__(self) -> Any:
        """From scikit-learn 1.6 on."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = bool(self.missing)
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _more_tags(self) -> dict[str, Any]:
        """Before scikit-learn 1.6."""
        return {"allow_nan": bool(self.missing), "preserves_dtype": [np.float32]}


# ---------------------------------------------------------------- parts


def _named(part: str, given: Any, kind: type) -> Make:
    """What makes a part: the class of that name, or what was given.

    Raises:
        InputError: If no class is called so, or it makes nothing.
    """
    if not isinstance(given, str):
        if isinstance(given, type) and not issubclass(given, kind):
            raise InputError(f"{part} must be a kind of {kind.__name__}, not {told(given)}")
        return maker(part, given, f"give its name, or its class, functools.partial({part.capitalize()}, ...) for one")
    known = {name.lower(): each for name, each in offered(part).items()}
    if given.lower() not in known:
        names = sorted(offered(part))
        near = did_you_mean(given, names) or f": give one of {', '.join(names)}"
        raise InputError(f"unknown {part} {given!r}{near}")
    return known[given.lower()]


def _made(part: str, make: Make, kind: type, *sizes: int) -> Any:
    return instance(f"what {part} makes", make(*sizes), kind)


def _given(make: Make, **options: Any) -> Make:
    """What makes a part, with those of some options that it takes and was not told."""
    open_to = _open_arguments(make)
    suited = {name: value for name, value in options.items() if name in open_to}
    return partial(make, **suited) if suited else make


def _open_arguments(make: Make) -> set[str]:
    """Names of the arguments that what makes a part was not told yet."""
    try:
        names = set(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # what is written in C may not tell
        return set()
    while isinstance(make, partial):
        names -= set(make.keywords)
        make = make.func
    return names


def _started(likelihood: Any, x: Tensor, names: Sequence[str]) -> Any:
    """The likelihood with the units of the data."""
    likelihood.start_from(x, names)
    return likelihood


def _seed_of(random_state: Any) -> int:
    """A seed: the number itself, one drawn of a generator, or one that the operating system gives."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    return whole("random_state", random_state, least=0)


# ---------------------------------------------------------------- frames


def _validated(vae: VAE, X: Any, reset: bool, **checks: Any) -> Any:  # noqa: N803
    """The data as scikit-learn checks them; without checks, number and names of the columns alone."""
    try:
        from sklearn.utils.validation import validate_data
    except ImportError:  # before scikit-learn 1.6
        if not checks:
            return vae._validate_data(X, reset=reset, cast_to_ndarray=False)
        checks["force_all_finite"] = checks.pop("ensure_all_finite")
        return vae._validate_data(X, reset=reset, **checks)
    return validate_data(vae, X, reset=reset, **(checks or {"skip_check_array": True}))


def _library_and_names(X: Any) -> tuple[str, list[str]] | None:  # noqa: N803
    """The library of a frame and the names of its columns; ``None`` for what is none.

    scikit-learn before 1.6 may know no names of a frame that is not of pandas.
    """
    if isinstance(X, str) or not is_table(X):
        return None
    import narwhals

    frame = narwhals.from_native(X, eager_only=True)
    return str(frame.implementation.value), [str(name) for name in frame.columns]


def _with_declared_categories(schema: Schema, X: Any) -> Schema:  # noqa: N803
    """The schema with all categories that a frame's types declare, of which a split of its rows may lack some.

    They are those of pandas' ``category`` and of polars' ``Enum``; its ``Categorical`` declares none.
    """
    types = list(getattr(X, "dtypes", [None] * len(schema.columns)))
    columns = []
    for column, kind in zip(schema.columns, types, strict=True):
        declares = type(kind).__name__ in ("CategoricalDtype", "Enum")
        words = {str(word) for word in kind.categories} if declares else set()
        if column.categories and words > set(column.categories):
            column = replace(column, kind="category", categories=tuple(sorted(words)))
        columns.append(column)
    return replace(schema, columns=tuple(columns))


def _table_of(X: Any, schema: Schema | None = None) -> Table:  # noqa: N803
    """The cells of a frame; of an array, whose columns scikit-learn takes for those of the frame in their order.

    pandas' index, which a split of the data has too, is no column.
    """
    if is_table(X) or schema is None:
        with _in_words_of_python():
            return read_table(X.reset_index(drop=True) if hasattr(X, "reset_index") else X)
    array = np.asarray(X)
    given = (_cells(array[:, i]) for i in range(array.shape[1]))
    return Table({column.name: cells for column, cells in zip(schema.columns, given, strict=True)})


def _cells(values: "np.ndarray[Any, Any]") -> Cells:
    if values.dtype.kind in "buif":
        return Cells(values)
    return Cells(None if each is None or each != each else str(each) for each in values.tolist())


@contextmanager
def _in_words_of_python() -> Iterator[None]:
    """A block whose messages about a table name this estimator's arguments, and not the command line's options."""
    try:
        yield
    except InputError as error:
        raise InputError(_in_python(str(error))) from error


def _in_python(message: str) -> str:
    """A message with this estimator's arguments in place of the command line's options.

    >>> _in_python("if it names the rows, give --index plant; else leave it out with --columns")
    "if it names the rows, make it the frame's index; else leave it out"
    """
    words = re.sub(r"--kinds (\S+)=(\w+)", r"kinds={'\1': '\2'}", message)
    words = re.sub(r", --columns \S+| with --columns| \(--columns\)", "", words)
    words = re.sub(r"(make it|give) --index( [^;,]+)?", "make it the frame's index", words)
    return words.replace("train with --missing, missing=True,", "give missing=True")
