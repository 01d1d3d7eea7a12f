"""The section on the network: its layers, first filters, and a map of embeddings."""

from __future__ import annotations

from collections.abc import Mapping

from siamese_jax.reporting import embedding_map, page
from siamese_jax.reporting.inputs import ReportInputs
from siamese_jax.reporting.run_figures import MAX_MAPPED_CLASSES
from siamese_jax.reporting.wording import shape


def network(inputs: ReportInputs, figures: Mapping[str, str]) -> str:
    """The layers, the first filters, and a map of embeddings."""
    parameters = sum(layer.parameters for layer in inputs.layers)
    encoder = sum(x.multiply_adds for x in inputs.layers if x.name.startswith("encoder"))
    cost = f"{encoder / 1e6:,.1f} million" if encoder >= 1e6 else f"{encoder:,}"
    rows = [
        (
            False,
            (
                layer.name,
                f"{layer.layer_type} {shape(layer.kernel)}",
                shape(layer.input_shape),
                shape(layer.output_shape) if layer.output_shape else "a score",
                f"{layer.parameters:,}",
                f"{layer.multiply_adds:,}" if layer.multiply_adds else "–",
            ),
        )
        for layer in inputs.layers
    ]
    rows.append(
        (True, (f"total, one {inputs.noun}", "", "", "", f"{parameters:,}", f"{encoder:,}"))
    )
    head = ("Layer", "Kind", "Input", "Output", "Parameters", "Multiply-adds")
    parts = [
        page.table(head, rows, numbers=(2, 3, 4, 5)),
        page.note(
            f"Counted on the model itself. One {inputs.noun} costs {cost} multiply-adds in "
            "convolutions and matrix products. The comparator’s are for one pair, and the total "
            "leaves them out. Where an input is smaller than the output before it, there is a pool "
            "between them."
        ),
    ]
    if inputs.net.model.centre_ink:
        parts.append(page.note("The ink of each picture is moved to the middle first."))
    if "filters" in figures:
        zero = (
            "grey is zero"
            if inputs.net.image_shape[2] == 3
            else (
                f"red where {'ink' if inputs.net.kind == 'ink' else 'light'} raises the response, blue "
                "where it lowers it, white zero"
            )
        )
        caption = f"Each filter is scaled to its own largest weight: {zero}."
        parts.append("<h3>First-layer filters</h3>")
        parts.append(page.figure(figures["filters"], caption))
    of_group = f" of {'an' if inputs.group_noun == 'alphabet' else 'a'} {inputs.group_noun}"
    mark, shows = (
        ("one picture", "picture and name") if inputs.has_pictures else ("the name", "name")
    )
    caption = (
        f"Up to {MAX_MAPPED_CLASSES} test classes{of_group if inputs.has_groups else ''}. Each point is "
        f"the embedding of a {inputs.noun}: nearby points look alike to it. Point at one (or tap "
        f"it) to see its {shows}. A line joins it to the mean of its class, above which is {mark} of "
        "the class."
    )
    parts.append("<h3>A map of embeddings</h3>")
    parts.append(page.figure(figures["embeddings"], caption))
    if not embedding_map.has_tsne():
        parts.append(page.note(embedding_map.NO_TSNE))
    return "\n".join(parts)
