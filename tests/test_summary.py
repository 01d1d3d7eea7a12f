"""The table of layers: shapes, parameters and multiply-adds by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from networks import KOCH, RESIDUAL

from siamese_jax.models import siamese, summary
from siamese_jax.models.comparators import Bilinear, Cosine, Local
from siamese_jax.models.context import FullContext
from siamese_jax.models.encoders import DenseEncoder
from siamese_jax.models.siamese import SiameseNet
from siamese_jax.models.vit import ViTEncoder


def test_layers_of_koch_at_105_pixels():
    model = siamese.build(KOCH)
    table = summary.layer_table(model, (105, 105, 1))
    # Kernel x input channels x filters + filters; outputs x kernel x input channels.
    assert [(x.name, x.output_shape, x.parameters, x.multiply_adds) for x in table] == [
        ("encoder/conv1", (96, 96, 64), 10 * 10 * 64 + 64, 96 * 96 * 64 * 100),
        ("encoder/conv2", (42, 42, 128), 7 * 7 * 64 * 128 + 128, 42 * 42 * 128 * 49 * 64),
        ("encoder/conv3", (18, 18, 128), 4 * 4 * 128 * 128 + 128, 18 * 18 * 128 * 16 * 128),
        ("encoder/conv4", (6, 6, 256), 4 * 4 * 128 * 256 + 256, 6 * 6 * 256 * 16 * 128),
        ("encoder/embedding", (4096,), 9216 * 4096 + 4096, 9216 * 4096),
        ("head", (), 4097, 4096),
    ]
    assert [x.input_shape for x in table[1:]] == [
        (48, 48, 64),
        (21, 21, 128),
        (9, 9, 128),
        (9216,),
        (4096,),
    ]
    assert sum(x.parameters for x in table) == 38_951_745
    assert round(sum(x.multiply_adds for x in table[:-1]) / 1e9, 3) == 0.909


def test_layers_hold_all_parameters_of_the_residual_network():
    model = siamese.build(RESIDUAL)
    table = summary.layer_table(model, (56, 56, 1))
    images = jnp.zeros((1, 56, 56, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), images, images)["params"]
    assert sum(x.parameters for x in table) == sum(x.size for x in jax.tree.leaves(params))
    assert len({x.name for x in table}) == len(table)
    stem = table[0]
    assert (stem.name, stem.kernel, stem.output_shape) == ("encoder/stem", (5, 5), (28, 28, 32))
    assert stem.multiply_adds == 28 * 28 * 32 * 25


def test_the_products_of_an_attention():
    """Of 2 x 2 patches of 3 x 3 pixels and the class token, 5 tokens of 8 numbers in 2 heads."""
    encoder = ViTEncoder(patch=3, width=8, depth=1, heads=2, units=4)
    table = summary.layer_table(SiameseNet(encoder, Cosine()), (6, 6, 3))
    found = {x.name.removeprefix("encoder/"): x.multiply_adds for x in table if x.multiply_adds}
    dense = dict.fromkeys((f"block1/attn/{x}" for x in ("query", "key", "value", "out")), 5 * 8 * 8)
    # The tokens with one another: 5 x 5 sums of 8 products, and 5 sums of 5 tokens of 8 numbers.
    attention = {"block1/attn": 5 * 5 * 8 + 5 * 5 * 8}
    layers = {"block1/fc1": 5 * 8 * 32, "block1/fc2": 5 * 32 * 8, "embedding": 8 * 4, "head": 4}
    assert found == {"patch_embed": 4 * 3 * 3 * 3 * 8, **dense, **attention, **layers}


class MapEncoder(nn.Module):
    """Attention along the rows of a map."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.MultiHeadDotProductAttention(num_heads=1)(nn.Conv(4, (1, 1))(x)).mean((1, 2))


def test_the_products_of_attention_along_the_rows_of_a_map():
    """Of 3 rows of 5 places with 4 features: of each row 5 x 5 sums of 4 products, twice."""
    table = summary.layer_table(SiameseNet(MapEncoder(), Cosine()), (3, 5, 1))
    (attention,) = [x for x in table if x.layer_type == "MultiHeadDotProductAttention"]
    assert attention.multiply_adds == 3 * 2 * 5 * 5 * 4


def test_the_products_of_a_step_of_a_recurrent_cell():
    """Four gates each; a cell of the supports reads 12 numbers, that of the queries 2 x 12."""
    net = SiameseNet(DenseEncoder((), 12), Cosine(), context=FullContext(2))
    table = summary.layer_table(net, (4, 4, 1))
    cells = [x for x in table if x.name.startswith("context/")]
    assert len(cells) == 3 * 8 and {x.layer_type for x in cells} == {"DenseParams"}
    queries = sum(x.multiply_adds for x in cells if "queries" in x.name)
    assert queries == 4 * (2 * 12 * 12 + 12 * 12)
    assert sum(x.multiply_adds for x in cells) - queries == 2 * 4 * (12 * 12 + 12 * 12)


def test_the_products_of_maps_of_local_features():
    """Of 2 x 3 places with 2 features, each meeting itself and its neighbours: 4 times 7 meetings."""
    head = Local(places=(2, 3), units=2, reach=1)
    net = SiameseNet(DenseEncoder((), 12), head)
    *_, last = summary.layer_table(net, (4, 4, 1))
    assert (last.name, last.multiply_adds) == ("head", 4 * 7 * 2)


def test_the_products_of_a_bilinear_form():
    """Of 12 numbers: a matrix of 12 x 12 and a scalar product."""
    *_, last = summary.layer_table(SiameseNet(DenseEncoder((), 12), Bilinear()), (4, 4, 1))
    assert (last.layer_type, last.multiply_adds) == ("Bilinear", 12 * 12 + 12)
