"""Networks, and nothing probabilistic: the multi-layer perceptrons of Appendix C, and convolutions for images."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activations

from pyro_aevb.errors import REFUSALS, InputError, in_one_line, instance, maker, real, told, whole, wholes
from pyro_aevb.seeds import unchanged_random_state

__all__ = ["MLP", "ConvolutionalDecoder", "ConvolutionalEncoder", "ImageNetwork"]

Network = Callable[[int, int], nn.Module]
"""What ``network=`` takes: ``(in_dim, out_dim) -> nn.Module``."""

Activation = str | Callable[[], nn.Module]
"""A name in ``torch.nn``, in any case (``"tanh"``, ``"LeakyReLU"``), or a callable that makes a module."""


class MLP(nn.Sequential):
    r"""Multi-layer perceptron; with one hidden layer of tanh units it is the network of the paper's Appendix C.

    .. math:: f(x) = W_2 \tanh(W_1 x + b_1) + b_2

    Arguments:
        in_dim: Size of the input's last dimension.
        out_dim: Size of the output's last dimension; leading dimensions pass through.
        hidden: Number of units in each hidden layer: a list, or a number for one layer; an empty list for a linear map.
        activation: Name of an activation in ``torch.nn`` (``tanh``, ``relu``, ``softplus``, ...), in upper or lower
            case, or a callable that makes one.
        initial_sd: Standard deviation of the layers' initial weights, normal with mean zero, their biases being zero;
            ``None`` for PyTorch's own initial values.

    Raises:
        InputError: If a size is no whole number of at least 1, ``initial_sd`` is negative, or the activation unknown.

    References:
        | Auto-Encoding Variational Bayes, Appendix C (Kingma & Welling, 2013)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        hidden: int | Sequence[int] = 500,
        activation: Activation = "tanh",
        initial_sd: float | None = None,
    ) -> None:
        sizes = [whole("in_dim", in_dim), *wholes("hidden", hidden), whole("out_dim", out_dim)]
        make = _maker_of(activation)
        layers = [[nn.Linear(a, b), make()] for a, b in pairwise(sizes)]
        super().__init__(*[part for layer in layers for part in layer][:-1])
        if initial_sd is not None:
            _set_initial_values(self, real("initial_sd", initial_sd, least=0))


class ConvolutionalEncoder(nn.Sequential):
    r"""From images, given as rows of pixels, to numbers: convolutions that halve the image each, then a hidden layer.

    .. math:: h_{i+1} = a(\mathrm{conv}_{3 \times 3,\, \text{stride } 2}(h_i)), \quad y = W a(V [h, s] + c) + b

    Arguments:
        in_dim: Size of the input's last dimension: the number of pixels of an image, times its channels, and
            ``condition``.
        out_dim: Size of the output's last dimension.
        channels: Number of output channels of each convolution, first to last: a list, or a number for one convolution.
        hidden: Number of units in the hidden layer.
        activation: Name of an activation in ``torch.nn``, in upper or lower case, or a callable that makes one.
        shape: Height and width of an image, in pixels, or channels, height and width: an image of one channel comes
            after the other in a row, red, green and blue say, or pixels and a mask of those that are missing. By
            default a square's of one channel.
        condition: How many of the inputs, the last ones, are no pixels but numbers :math:`s` that join before the
            hidden layer: labels one-hot, covariates.

    Raises:
        InputError: If ``shape`` does not hold ``in_dim`` less ``condition`` numbers, or a size is no whole number of
            at least 1.

    References:
        | Convolutional networks, which section 7 names first (Kingma & Welling, 2013; LeCun et al., 1998)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        channels: int | Sequence[int] = (32, 64),
        hidden: int = 256,
        activation: Activation = "relu",
        shape: Sequence[int] | None = None,
        condition: int = 0,
    ) -> None:
        pixels = _pixels(in_dim, condition)
        images = _Images(*_image_shape(pixels, shape))
        make = _maker_of(activation)
        sizes = [images.shape[0], *wholes("channels", channels)]
        convolutions = [(nn.Conv2d(a, b, 3, stride=2, padding=1), make()) for a, b in pairwise(sizes)]
        _, height, width = images.shape
        for _ in convolutions:
            height = (height + 1) // 2
            width = (width + 1) // 2
        features = sizes[-1] * height * width
        super().__init__(
            images,
            *(part for layer in convolutions for part in layer),
            nn.Flatten(-3),
            nn.Linear(features + condition, whole("hidden", hidden)),
            make(),
            nn.Linear(hidden, whole("out_dim", out_dim)),
        )
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        """Numbers, ``(..., out_dim)``, for any number of leading dimensions of x, ``(..., in_dim)``."""
        rows = x.reshape(-1, x.shape[-1])
        *convolutions, first, activation, last = self
        features = rows[:, : self.pixels]
        for layer in convolutions:
            features = layer(features)
        joined = _joined(features, rows, self.pixels)
        numbers = last(activation(first(joined)))
        return numbers.reshape(*x.shape[:-1], numbers.shape[-1])


class ConvolutionalDecoder(nn.Module):
    r"""From numbers to images, given as rows of pixels: :class:`ConvolutionalEncoder` backwards, doubling each time.

    Where there are several outputs for a pixel (a Gaussian's mean and scale), there is an image of each, one after the
    other. Numbers that the image is to depend on beside the latents, labels one-hot say, are inputs like these.

    .. math:: h_0 = a(V a(W z + b) + c), \quad h_{i+1} = a(\mathrm{conv}_{3 \times 3}(\mathrm{enlarge}(h_i)))

    Arguments:
        in_dim: Size of the input's last dimension.
        out_dim: Size of the output's last dimension: the number of pixels of an image, times its channels, or a
            multiple of it.
        channels: Number of input channels of each convolution, from the smallest image on: a list, or a number for one
            convolution.
        hidden: Number of units in the layer between the input and the smallest image.
        activation: Name of an activation in ``torch.nn``, in upper or lower case, or a callable that makes one.
        shape: Height and width of an image, in pixels, or channels, height and width; by default those of a square of
            ``out_dim`` pixels, or of half as many where that is no square, of one channel.

    Raises:
        InputError: If ``out_dim`` is no multiple of the numbers in ``shape``, there are no channels, or a size is no
            whole number of at least 1.

    References:
        | Convolutional networks, which section 7 names first (Kingma & Welling, 2013; LeCun et al., 1998)
        | https://arxiv.org/abs/1312.6114
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        channels: int | Sequence[int] = (64, 32),
        hidden: int = 256,
        activation: Activation = "relu",
        shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        depth, height, width = _decoded_shape(whole("out_dim", out_dim), shape)
        if out_dim % (depth * height * width):
            raise InputError(
                f"{out_dim} outputs are no whole number of images of {_told_shape(depth, height, width)}: give shape"
            )
        channels = wholes("channels", channels)
        if not channels:
            raise InputError("channels must hold at least one number: there is one image at least to be enlarged")
        make = _maker_of(activation)
        sizes = [(height, width)]
        for _ in channels:
            sizes.insert(0, ((sizes[0][0] + 1) // 2, (sizes[0][1] + 1) // 2))
        outputs = [*channels[1:], out_dim // (height * width)]
        layers: list[nn.Module] = []
        for a, b, size in zip(channels, outputs, sizes[1:], strict=True):
            layers += [nn.Upsample(size), nn.Conv2d(a, b, 3, padding=1), make()]
        first = channels[0] * sizes[0][0] * sizes[0][1]
        dense = [nn.Linear(whole("in_dim", in_dim), whole("hidden", hidden)), make(), nn.Linear(hidden, first), make()]
        self.dense = nn.Sequential(*dense, _Images(channels[0], *sizes[0]))
        self.convolutions = nn.Sequential(*layers[:-1], nn.Flatten(-3))

    def forward(self, z: Tensor) -> Tensor:
        """Rows of pixels, ``(..., out_dim)``, for any number of leading dimensions."""
        rows = self.convolutions(self.dense(z.reshape(-1, z.shape[-1])))
        return rows.reshape(*z.shape[:-1], rows.shape[-1])


class ImageNetwork(nn.Module):
    r"""Any network for images, torchvision's say, over rows of pixels: its features, then a linear layer.

    .. math:: y = W [f(x), s] + b

    .. code-block:: python

        body = partial(torchvision.models.resnet18, num_classes=64)
        network = partial(ImageNetwork, body=body, shape=(1, 28, 28), channels=3)
        guide = aevb.guides.DiagonalNormal(784, 20, network=network)

    Oracle: the body called by hand.

    Arguments:
        in_dim: Size of the input's last dimension: the number of pixels of an image, times its channels, and
            ``condition``.
        out_dim: Size of the output's last dimension.
        body: The network :math:`f`, from images ``(B, C, H, W)`` to anything of B rows, which is flattened; or a
            callable that makes one anew, with initial values from the seed of the run. With or without its own head.
        shape: Height and width of an image, in pixels, or channels, height and width; by default a square's of one
            channel.
        channels: Number of channels that the body takes, where it is another than the image's: a grey image is repeated
            as often.
        condition: How many of the inputs, the last ones, are no pixels but numbers :math:`s` that join before the
            linear layer: labels one-hot, covariates.

    Raises:
        InputError: If ``shape`` does not hold ``in_dim`` less ``condition`` numbers, ``channels`` are given of an image
            that is not grey, or the body is no network for such images.

    References:
        | Deep residual learning for image recognition (He et al., 2015)
        | https://arxiv.org/abs/1512.03385
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        body: nn.Module | Callable[[], nn.Module],
        shape: Sequence[int] | None = None,
        channels: int | None = None,
        condition: int = 0,
    ) -> None:
        super().__init__()
        self.pixels = _pixels(in_dim, condition)
        self.images = _Images(*_image_shape(self.pixels, shape))
        depth = self.images.shape[0]
        self.channels = depth if channels is None else whole("channels", channels)
        if self.channels != depth and depth != 1:
            raise InputError(f"channels={self.channels} of an image of {depth} channels: only a grey one is repeated")
        self.body = _body(body)
        features = _count_of_features(self.body, (self.channels, *self.images.shape[1:]))
        self.head = nn.Linear(features + condition, whole("out_dim", out_dim))

    def forward(self, x: Tensor) -> Tensor:
        """Numbers, ``(..., out_dim)``, for any number of leading dimensions of x, ``(..., in_dim)``."""
        rows = x.reshape(-1, x.shape[-1])
        images = self.images(rows[:, : self.pixels]).expand(-1, self.channels, -1, -1)  # (B, C, H, W)
        joined = _joined(self.body(images).flatten(1), rows, self.pixels)
        return self.head(joined).reshape(*x.shape[:-1], self.head.out_features)


def _body(body: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    """A network, made where what was given makes one."""
    if isinstance(body, nn.Module):
        return body
    maker("body", body, "give a network, or what makes one, partial(torchvision.models.resnet18, num_classes=64) say")
    try:
        return instance("what body makes", body(), nn.Module)
    except TypeError as error:
        raise InputError(f"body {told(body)} cannot be made without arguments: {in_one_line(error)}") from error


@torch.no_grad()
def _count_of_features(body: nn.Module, shape: tuple[int, int, int]) -> int:
    """How many numbers a body makes of an image, from a run in evaluation that leaves nothing behind."""
    like = next((p for p in body.parameters() if p.is_floating_point()), torch.zeros(()))
    images = like.new_zeros(2, *shape)
    training = {module: module.training for module in body.modules()}
    try:
        with unchanged_random_state(images.device):
            features = instance("what body returns", body.eval()(images), Tensor)
    except REFUSALS as error:
        raise InputError(
            f"body {told(body)} cannot be run on images {(2, *shape)}: {in_one_line(error)}; give channels or shape"
        ) from error
    finally:
        for module, was in training.items():
            module.training = was
    if features.dim() < 1 or len(features) != 2:
        raise InputError(f"body {told(body)} makes {tuple(features.shape)} of 2 images: it must keep their number")
    return features[0].numel()


def _pixels(in_dim: int, condition: int) -> int:
    """The numbers of a row that are an image."""
    pixels = whole("in_dim", in_dim) - whole("condition", condition, least=0)
    if pixels < 1:
        raise InputError(f"condition={condition} of {in_dim} inputs leaves no pixels: give fewer")
    return pixels


def _joined(features: Tensor, rows: Tensor, pixels: int) -> Tensor:
    """Features of an image and the numbers behind its pixels, ``(B, features + condition)``."""
    return features if rows.shape[-1] == pixels else torch.cat([features, rows[:, pixels:]], dim=-1)


class _Images(nn.Module):
    """Rows of numbers, ``(..., C * H * W)``, as images."""

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        self.shape = channels, height, width

    def forward(self, x: Tensor) -> Tensor:
        """The same numbers, ``(..., C, H, W)``."""
        return x.reshape(*x.shape[:-1], *self.shape)


def _image_shape(pixels: int, shape: Sequence[int] | None) -> tuple[int, int, int]:
    depth, height, width = (1, isqrt(pixels), isqrt(pixels)) if shape is None else _whole_shape(shape)
    if depth * height * width != pixels:
        told_shape = _told_shape(depth, height, width)
        raise InputError(
            f"{pixels} pixels are no image of {told_shape}: give shape, height and width, or channels too; and "
            "condition, where the last of these numbers are no pixels"
        )
    return depth, height, width


def _decoded_shape(outputs: int, shape: Sequence[int] | None) -> tuple[int, int, int]:
    """The shape that was given, else a square's of all outputs, else a square's of half as many."""
    if shape is not None:
        return _whole_shape(shape)
    return _image_shape(outputs if isqrt(outputs) ** 2 == outputs else outputs // 2, None)


def _whole_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """Channels, one where they were not given, height and width."""
    sizes = wholes("shape", shape)
    if len(sizes) not in (2, 3):
        raise InputError(
            f"shape must be height and width, or channels, height and width, whole numbers, not {told(shape)}"
        )
    depth, height, width = [1, *sizes][-3:]
    return depth, height, width


def _told_shape(depth: int, height: int, width: int) -> str:
    return f"{height} x {width}" if depth == 1 else f"{depth} x {height} x {width}"


def make_network(
    in_dim: int, out_dim: int, hidden: int | Sequence[int], activation: Activation, network: Network | None
) -> nn.Module:
    """The network of a likelihood or guide: what ``network`` makes, else the default :class:`MLP`.

    Arguments:
        in_dim: Size of the input's last dimension.
        out_dim: Size of the output's last dimension.
        hidden: Number of units in each hidden layer of the default network.
        activation: Activation of the default network.
        network: Callable ``(in_dim, out_dim) -> nn.Module``; ``None`` for the default.

    Raises:
        InputError: If the network cannot be made of two sizes, or is no ``nn.Module``.
    """
    if network is None:
        return MLP(in_dim, out_dim, hidden, activation)
    maker("network", network, "give what makes one, network=lambda in_dim, out_dim: ...")
    try:
        made = network(in_dim, out_dim)
    except TypeError as error:
        reason = in_one_line(error)
        raise InputError(f"network {told(network)} cannot be made of (in_dim, out_dim): {reason}") from error
    return instance("what network makes", made, nn.Module)


def find_activation(activation: Activation) -> Callable[[], nn.Module]:
    """A callable that makes an activation: what is given if it is one, else the class of that name in ``torch.nn``.

    >>> find_activation("leakyrelu").__name__
    'LeakyReLU'
    """
    if not isinstance(activation, str):
        return maker("activation", activation, "give a name from torch.nn, such as tanh, or a class, such as nn.Tanh")
    known = {name.lower(): name for name in activations.__all__}
    if activation.lower() not in known:
        raise InputError(
            f"unknown activation {activation!r}: give a name from torch.nn, such as tanh, relu or softplus"
        )
    return getattr(activations, known[activation.lower()])


def _maker_of(activation: Activation) -> Callable[[], nn.Module]:
    """A callable that makes an activation, and says so where the one given makes something else."""
    make = find_activation(activation)

    def checked() -> nn.Module:
        """Make another activation."""
        try:
            return instance("what activation makes", make(), nn.Module)
        except TypeError as error:
            reason = in_one_line(error)
            raise InputError(f"activation {told(activation)} cannot be made without arguments: {reason}") from error

    return checked


@torch.no_grad()
def _set_initial_values(network: nn.Module, sd: float) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):  # an activation may have parameters too, a slope: they stay as they are
            layer.weight.normal_(0, sd)
            layer.bias.zero_()
