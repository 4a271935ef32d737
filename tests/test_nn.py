"""Networks: what initial values are set in them, how images keep their shape, what joins beside pixels."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pyro_aevb as aevb
from pyro_aevb import evidence
from pyro_aevb.nn import MLP, ConvolutionalDecoder, ConvolutionalEncoder, ImageNetwork
from tests.commands import train


def test_initial_values_are_of_linear_layers_alone():
    """An activation's own parameter, PReLU's slope, is called weight too."""
    torch.manual_seed(0)
    network = MLP(200, 3, [300], "prelu", initial_sd=0.1)
    first, activation, last = network
    assert first.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert last.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert not first.bias.any()
    assert not last.bias.any()
    assert torch.equal(activation.weight, nn.PReLU().weight)


# ---------------------------------------------------------------- channels


def by_hand(network, images, others=None):
    """What an encoder computes, from images of their own shape."""
    layers = dict(network.named_children())
    convolutions = [layer for layer in layers.values() if isinstance(layer, nn.Conv2d)]
    hidden, last = (layer for layer in layers.values() if isinstance(layer, nn.Linear))
    h = images
    for layer in convolutions:
        h = F.relu(F.conv2d(h, layer.weight, layer.bias, stride=2, padding=1))
    h = h.flatten(1) if others is None else torch.cat([h.flatten(1), others], 1)
    return last(F.relu(hidden(h)))


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (3, 5, 4), (2, 7, 1)])
@pytest.mark.parametrize("condition", [0, 3])
def test_an_encoder_sees_images_in_their_shape(shape, condition):
    images = torch.rand(6, *([1, *shape][-3:]))
    others = torch.rand(6, condition)
    network = ConvolutionalEncoder(
        images[0].numel() + condition, 2, channels=[4, 5], hidden=7, shape=shape, condition=condition
    )
    rows = torch.cat([images.flatten(1), others], 1)
    torch.testing.assert_close(network(rows), by_hand(network, images, others if condition else None))


def test_an_encoder_without_channels_keeps_the_names_of_its_weights():
    """Runs of earlier versions hold them."""
    names = list(ConvolutionalEncoder(16, 2, channels=[4, 5]).state_dict())
    assert names == [f"{i}.{kind}" for i in (1, 3, 6, 8) for kind in ("weight", "bias")]


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_decoder_makes_images_of_several_channels(outputs):
    """Several outputs a pixel are whole images, one after the other, so that a chunk is one image."""
    network = ConvolutionalDecoder(3, outputs * 3 * 5 * 4, channels=[6, 4], hidden=7, shape=(3, 5, 4))
    z = torch.randn(2, 3)
    convolutions = network.convolutions
    images = convolutions[:-1](network.dense(z))
    assert images.shape == (2, outputs * 3, 5, 4)
    for found, expected in zip(network(z).chunk(outputs, -1), images.chunk(outputs, 1), strict=True):
        assert torch.equal(found.view(2, 3, 5, 4), expected)


BODY = partial(nn.Conv2d, 3, 2, 3)
NETWORKS = {
    "encoder": lambda: ConvolutionalEncoder(3 * 8 * 8 + 2, 5, channels=[4], shape=(3, 8, 8), condition=2),
    "decoder": lambda: ConvolutionalDecoder(3 * 8 * 8 + 2, 5 * 5, channels=[4]),
    "image network": lambda: ImageNetwork(3 * 8 * 8 + 2, 5, BODY, shape=(3, 8, 8), condition=2),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("leading", [(), (1,), (4,), (3, 4), (2, 3, 4), (0,)])
def test_leading_dimensions_pass_through(name, leading):
    network = NETWORKS[name]()
    x = torch.rand(*leading, 194)
    found = network(x)
    assert found.shape[:-1] == leading
    rows = x.reshape(-1, 194)
    torch.testing.assert_close(found, network(rows).reshape(found.shape))


# ---------------------------------------------------------------- any network for images


class Normalised(nn.Sequential):
    """A body with batch normalisation, and features that are no rows yet."""

    def __init__(self, channels=3):
        super().__init__(nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2))


@pytest.mark.parametrize(
    ("shape", "channels", "repeat"), [((3, 6, 4), None, 1), ((6, 4), 3, 3), ((6, 4), None, 1), ((2, 6, 4), 2, 1)]
)
@pytest.mark.parametrize("condition", [0, 2])
def test_an_image_network_is_its_body_called_by_hand(shape, channels, repeat, condition):
    images = torch.rand(5, *([1, *shape][-3:]))
    others = torch.rand(5, condition)
    body = Normalised(images.shape[1] * repeat)
    network = ImageNetwork(images[0].numel() + condition, 7, body, shape, channels, condition).train(False)
    features = body(images.repeat(1, repeat, 1, 1)).flatten(1)
    expected = network.head(torch.cat([features, others], 1))
    assert torch.equal(network(torch.cat([images.flatten(1), others], 1)), expected)


def test_a_body_is_made_anew_where_a_callable_is_given():
    one, other = (ImageNetwork(48, 2, Normalised, shape=(3, 4, 4)) for _ in range(2))
    assert not set(map(id, one.parameters())) & set(map(id, other.parameters()))
    shared = Normalised()
    assert ImageNetwork(48, 2, shared, shape=(3, 4, 4)).body is shared


class Noisy(nn.Module):
    """Noise in evaluation too."""

    def forward(self, x):
        return x + torch.randn_like(x)


def test_counting_features_leaves_a_body_as_it_was():
    """Neither its statistics, nor its switches, nor the noise."""
    body = nn.Sequential(Normalised(), Noisy(), nn.Dropout(), nn.BatchNorm2d(4).eval())
    before = {name: value.clone() for name, value in body.state_dict().items()}
    noise = torch.get_rng_state()
    network = ImageNetwork(48, 2, body, shape=(3, 4, 4))
    assert all(torch.equal(value, before[name]) for name, value in body.state_dict().items())
    assert [module.training for module in body] == [True, True, True, False]
    assert network.head.in_features == 4 * 2 * 2
    torch.set_rng_state(noise)
    expected = nn.Linear(16, 2)
    torch.set_rng_state(noise)
    assert torch.equal(ImageNetwork(48, 2, body, shape=(3, 4, 4)).head.weight, expected.weight)


def test_a_body_of_another_precision_and_device():
    network = ImageNetwork(48, 2, Normalised().double(), shape=(3, 4, 4)).double()
    assert network(torch.rand(3, 48, dtype=torch.float64)).dtype == torch.float64


class LosesRows(nn.Module):
    def forward(self, x):
        return x.sum(0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ImageNetwork(48, 2, Normalised), r"48 pixels are no image of 6 x 6: give shape, height and width, or"),
        (lambda: ImageNetwork(48, 2, Normalised, (3, 4, 5)), r"48 pixels are no image of 3 x 4 x 5: give shape"),
        (
            lambda: ImageNetwork(16, 2, Normalised),
            r"cannot be run on images \(2, 1, 4, 4\): .*; give channels or shape",
        ),
        (
            lambda: ImageNetwork(32, 2, Normalised, (2, 4, 4), 3),
            r"channels=3 of an image of 2 channels: only a grey one",
        ),
        (lambda: ImageNetwork(16, 2, LosesRows), r"makes \(1, 4, 4\) of 2 images: it must keep their number"),
        (lambda: ImageNetwork(16, 2, nn.Conv2d), r"body .* cannot be made without arguments"),
        (lambda: ImageNetwork(16, 2, Normalised, condition=16), r"condition=16 of 16 inputs leaves no pixels"),
        (lambda: ConvolutionalEncoder(16, 2, condition=20), r"condition=20 of 16 inputs leaves no pixels"),
        (
            lambda: ConvolutionalEncoder(16, 2, shape=(1, 1, 4, 4)),
            r"shape must be height and width, or channels, height",
        ),
        (
            lambda: ConvolutionalDecoder(3, 49, shape=(3, 4, 4)),
            r"49 outputs are no whole number of images of 3 x 4 x 4",
        ),
    ],
)
def test_what_is_no_image_is_refused(make, words):
    with pytest.raises(aevb.InputError, match=words):
        make()


# ---------------------------------------------------------------- in a pair


def pair_of(network, latent_dim=2, side=8):
    torch.manual_seed(0)
    model = aevb.GenerativeModel(
        aevb.priors.StandardNormal(latent_dim), aevb.likelihoods.Bernoulli(latent_dim, side**2, hidden=5), 20
    )
    guide = aevb.RecognitionModel(aevb.guides.DiagonalNormal(side**2, latent_dim, network=network), 20)
    return model, guide


def resnet(**options):
    from torchvision.models import resnet18

    return partial(ImageNetwork, body=partial(resnet18, weights=None, num_classes=8), channels=3, **options)


def test_torchvision_s_resnet_trains_as_a_guide_s_network():
    """Its weights move, its statistics too; in evaluation one datum does not depend on others."""
    x = (torch.rand(20, 32 * 32) < 0.3).float()
    model, guide = pair_of(resnet(), side=32)
    body = guide.guide.network.body
    before = {name: value.clone() for name, value in body.state_dict().items()}
    reports = list(aevb.Trainer(model, guide, x, batch_size=10, device="cpu", engine="eager", report_every=20).run(60))
    assert len(reports) == 3
    assert all(not torch.equal(before[name], value) for name, value in body.state_dict().items())
    one_by_one = torch.cat([evidence.posterior_means(guide, row) for row in x.split(1)])
    torch.testing.assert_close(evidence.posterior_means(guide, x), one_by_one, rtol=1e-4, atol=1e-4)


def normalised_pair():
    return pair_of(partial(ImageNetwork, body=Normalised, channels=3))


def test_captured_equals_eager_with_batch_normalisation_inside():
    x = (torch.rand(20, 64, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    found = {}
    for engine in ("eager", "captured"):
        model, guide = normalised_pair()
        trainer = aevb.Trainer(model, guide, x, batch_size=10, device="cpu", engine=engine, report_every=10, seed=3)
        found[engine] = [report.bound for report in trainer.run(40)], guide.state_dict()
    assert found["captured"][0] == pytest.approx(found["eager"][0], abs=1e-3)
    for name, value in found["eager"][1].items():
        torch.testing.assert_close(found["captured"][1][name], value, rtol=1e-3, atol=1e-4)


def test_several_particles_equal_one_at_a_time():
    """The guide's body sees each image once, or its copies: batch normalisation must not see other statistics."""
    x = (torch.rand(6, 64, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    model, guide = normalised_pair()
    model.double(), guide.double()
    chunks = [
        evidence.importance_sampling(model.eval(), guide.eval(), x.double(), 6, chunk_size=size, seed=1)
        for size in (1, 3, 6)
    ]
    torch.testing.assert_close(chunks[0], chunks[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(chunks[0], chunks[2], rtol=1e-10, atol=1e-10)


def test_labels_beside_pixels_reach_an_encoder():
    """Each datum's label changes what is inferred of it, and nobody else's."""
    network = ConvolutionalEncoder(64 + 3, 2, channels=[4], shape=(8, 8), condition=3).eval()
    x = torch.rand(4, 67)
    changed = x.clone()
    changed[1, 64:] += 1
    moved = (network(x) != network(changed)).any(-1)
    assert moved.tolist() == [False, True, False, False]


def test_from_the_command_line(cli, tmp_path):
    """Channels and a body that makes itself; opening the run needs the user's word for torchvision."""
    words = ["--guide.network=ConvolutionalEncoder", "--guide.network.shape=[1,8,8]", "--guide.network.channels=[4]"]
    train(cli, *words, out="one")
    assert cli("evaluate", "one", "--num_samples=5")[0] == 0
    words = ["--guide.network=imagenetwork", "--guide.network.body=torchvision.models.resnet18"]
    train(cli, *words, "--guide.network.channels=3", "--samples=100", out="two")
    assert "--trust torchvision" in cli("evaluate", "two", "--num_samples=5")[2]
    assert cli("evaluate", "two", "--num_samples=5", "--trust=torchvision")[0] == 0
