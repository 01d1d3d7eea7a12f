"""A trained network as two ONNX models: the encoder and the comparator."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np

from siamese_jax.inference.export.onnx_comparators import COMPARATOR_GRAPHS
from siamese_jax.inference.export.onnx_encoders import ENCODER_GRAPHS, Layers
from siamese_jax.inference.export.onnx_graph import Graph
from siamese_jax.inference.network import Siamese


def make_models(net: Siamese, metadata: Mapping[str, str]) -> tuple[bytes, bytes]:
    """The encoder and the comparator of a network on one device, each for any batch size.

    The encoder takes `images` (batch, H, W, C) uint8 as `net.embed` does, but of the network's size
    only, or of kind `vector` `vectors` (batch, D) float32; it gives `embeddings` (batch, D). The
    comparator takes `embeddings1` (queries, D) and `embeddings2` (supports, D); it gives `scores`
    (queries, supports). Both compute in float32, whatever the network's dtype.

    Args:
        net: the network.
        metadata: texts for the properties of both models.

    Raises:
        ValueError: an encoder or comparator that has no graph, or a full context.
    """
    model = net.model
    for part, graphs, module in (
        ("encoder", ENCODER_GRAPHS, model.encoder),
        ("comparator", COMPARATOR_GRAPHS, model.head),
    ):
        if type(module) not in graphs:
            raise ValueError(
                f"the {part} {type(module).__name__} has no ONNX graph: export it as stablehlo, or "
                f"add its graph to siamese_jax/inference/export/onnx_{part}s.py"
            )
    if model.context is not None:
        raise ValueError(
            "a network with a full context has no ONNX graph: export it as stablehlo or safetensors"
        )
    variables = jax.tree.map(np.asarray, net.variables)
    size = net.embedding_size

    graph = Graph()
    if net.has_pictures:
        pixels = graph.input("images", net.dtype, ["batch", *net.image_shape])
        images = graph.add("Div", graph.cast(pixels, np.float32), graph.constant(255.0))
    else:
        vectors = graph.input("vectors", net.dtype, ["batch", net.image_shape[1]])
        images = graph.add("Reshape", vectors, graph.constant([-1, *net.image_shape]))
    statistics = variables.get("batch_stats", {}).get("encoder", {})
    layers = Layers(graph, variables["params"]["encoder"], statistics)
    images = layers.centre_ink(images, net.image_shape) if model.centre_ink else images
    build = ENCODER_GRAPHS[type(model.encoder)]
    embeddings = build(layers, model.encoder, images, net.image_shape)
    encoder = graph.model(embeddings, "embeddings", ["batch", size], metadata)

    graph = Graph()
    h1 = graph.input("embeddings1", np.float32, ["queries", size])
    h2 = graph.input("embeddings2", np.float32, ["supports", size])
    compare = COMPARATOR_GRAPHS[type(model.head)]
    scores = compare(graph, model.head, variables["params"]["head"], h1, h2)
    return encoder, graph.model(scores, "scores", ["queries", "supports"], metadata)
