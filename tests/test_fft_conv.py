"""The convolution in the frequency domain against the direct one, in value and in gradients."""

import functools

import jax
import jax.numpy as jnp
import jax.test_util
import jaxtyping
import numpy as np
import pytest
from networks import direct
from scipy.signal import correlate

from siamese_jax.models.fft_conv import best_tile, fft_conv

# Images (B, H, W, C), kernel (k, k', C, N), tile: Koch's conv2 with fewer channels first.
CASES = [
    ((2, 48, 48, 3), (7, 7, 3, 4), 20),
    ((1, 21, 21, 2), (4, 4, 2, 5), 9),  # odd tile, even kernel, outputs that fill no whole tiles
    ((3, 12, 17, 1), (3, 5, 1, 2), 8),  # neither square
    ((2, 7, 7, 2), (7, 7, 2, 3), 20),  # one output, a tile larger than the image
    ((1, 9, 10, 2), (1, 1, 2, 2), 4),
    ((2, 11, 11, 2), (5, 5, 2, 2), 5),  # one column a tile
    ((2, 13, 18, 2), (6, 3, 2, 3), None),
]


def draw(*shapes, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def value_and_gradients(convolve, x, w, dy):
    """The value, and the gradients of its product with `dy`, as float64 arrays."""

    @jax.jit
    def run(x, w, dy):
        y, pull = jax.vjp(convolve, x, w)
        return y, *pull(dy)

    return [np.asarray(a, np.float64) for a in run(x, w, dy)]


@pytest.mark.parametrize(("images", "kernel", "tile"), CASES)
def test_value_and_gradients_are_those_of_the_direct_convolution(images, kernel, tile):
    with jax.enable_x64(True):
        outputs = [a - b + 1 for a, b in zip(images[1:3], kernel[:2], strict=True)]
        x, w, dy = draw(images, kernel, (images[0], *outputs, kernel[3]))
        ours = value_and_gradients(lambda x, w: fft_conv(x, w, tile), x, w, dy)
        theirs = value_and_gradients(direct, x, w, dy)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def test_value_is_scipys_correlation():
    with jax.enable_x64(True):
        x, w = draw((1, 19, 23, 2), (4, 6, 2, 1))
        expected = sum(correlate(x[0, ..., c], w[..., c, 0], "valid", "direct") for c in range(2))
        found = np.asarray(jax.jit(fft_conv, static_argnums=2)(x, w, 10))[0, ..., 0]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_differences():
    with jax.enable_x64(True):
        x, w = draw((2, 10, 9, 2), (3, 4, 2, 3))
        convolve = jax.jit(lambda x, w: fft_conv(x, w, 7))
        jax.test_util.check_grads(convolve, (x, w), 1, modes=["rev"])


def test_single_precision_is_as_exact_as_a_direct_convolution():
    x, w, dy = draw((2, 48, 48, 16), (7, 7, 16, 8), (2, 42, 42, 8), dtype=np.float32)
    assert jax.eval_shape(fft_conv, x, w).dtype == jnp.float32
    half = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    assert jax.eval_shape(fft_conv, *half).dtype == jnp.bfloat16
    ours = value_and_gradients(fft_conv, x, w, dy)
    with jax.enable_x64(True):
        exact = value_and_gradients(direct, *(a.astype(np.float64) for a in (x, w, dy)))
    for a, b in zip(ours, exact, strict=True):
        assert np.abs(a - b).max() < 2e-6 * np.abs(b).max()


def test_training_through_it_is_training_through_the_direct_one():
    """A loss behind a ReLU, jitted, as a network has it."""
    with jax.enable_x64(True):
        x, w = draw((2, 16, 16, 2), (5, 5, 2, 3))

        def loss(w, convolve):
            return (jax.nn.relu(convolve(x, w)) ** 2).mean()

        ours, theirs = (
            jax.jit(jax.grad(functools.partial(loss, convolve=convolve)))(w)
            for convolve in (fft_conv, direct)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_the_tile_is_chosen_by_a_count_of_its_work():
    """Koch's layers: the larger the kernel and the channels, the more is won; little by few images."""
    gains = [
        best_tile((64, *image), kernel)[1]
        for image, kernel in (
            ((48, 48, 64), (7, 7, 64, 128)),
            ((21, 21, 128), (4, 4, 128, 128)),
            ((105, 105, 1), (10, 10, 1, 64)),
        )
    ]
    assert gains == sorted(gains, reverse=True) and gains[0] > 4 and gains[2] < 1
    assert best_tile((1, 48, 48, 64), (7, 7, 64, 128))[1] < 1.5
    # Outputs of 5 x 5 in one tile, by hand: a kernel of one pixel, one channel.
    tile, gain = best_tile((1, 5, 5, 1), (1, 1, 1, 1))
    cost = {}
    for p, across in ((1, 5), (2, 3), (3, 2), (5, 1)):
        numbers = 3 * across * 3 * p
        widths, heights = numbers * 2 * (p + p), 2 * 3 * (25 + 5 * across * p)
        image = numbers + widths + heights + 50 * numbers * 2
        cost[p] = image + 3 * (2 + 3 * p * (2 + 50))
    assert tile == min(cost, key=cost.get) and gain == pytest.approx(25 / cost[tile])


@pytest.mark.parametrize(
    ("images", "kernel", "tile", "match"),
    [
        ((2, 9, 9, 2), (9, 9, 2, 4), 8, "wider tile"),
        ((2, 9, 6, 2), (7, 7, 2, 4), 8, r"images of \(9, 6\)"),
    ],
)
def test_sizes_that_do_not_fit_are_named(images, kernel, tile, match):
    with pytest.raises(ValueError, match=match):
        fft_conv(jnp.zeros(images), jnp.zeros(kernel), tile)


@pytest.mark.parametrize(
    ("images", "kernel"), [((2, 9, 9, 3), (3, 3, 2, 4)), ((9, 9, 3), (3, 3, 3, 4))]
)
def test_other_axes_are_refused(images, kernel):
    with pytest.raises(jaxtyping.TypeCheckError):
        fft_conv(jnp.zeros(images), jnp.zeros(kernel), 8)
