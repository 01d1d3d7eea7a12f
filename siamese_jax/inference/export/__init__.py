"""A trained network in the formats of other programs: ONNX, StableHLO and safetensors.

An ONNX or StableHLO export is two files, since most programs embed each picture once and compare the
embeddings often: the encoder, from pictures to embeddings, and the comparator, from two sets of
embeddings to the score of every first with every second. Both take any number of pictures. A
safetensors file holds the parameters and the run's records, and `siamese_jax.load` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable

from siamese_jax import files
from siamese_jax.inference import network
from siamese_jax.runs import export, safetensors_file, workdir


@dataclasses.dataclass(frozen=True)
class ExportedFile:
    """A file that was written.

    Attributes:
        path: of the file.
        contents: what is in it, in words.
    """

    path: pathlib.Path
    contents: str


def export_network(
    path: str | pathlib.Path,
    file: str | pathlib.Path,
    checkpoint: str | int = "best",
) -> list[ExportedFile]:
    """Writes a network in one of `FORMATS`.

    Args:
        path: of the network, as `network.load` takes it.
        file: of the encoder or of everything; the comparator of `network.onnx` is written to
            `network.comparator.onnx`. Its extension is the name of the format.
        checkpoint: as in `network.load`.

    Returns:
        The files, in the order in which they were written.

    Raises:
        ValueError: an unknown format, a folder that is not there, a package
            that is missing, or a network that the format cannot hold.
    """
    file = pathlib.Path(file)
    format_name = file.suffix.removeprefix(".")
    if format_name not in FORMATS:
        raise ValueError(
            f"{file}: its extension must be .{', .'.join(FORMATS)}, which is the format"
        )
    if not file.parent.is_dir():
        raise ValueError(f"{file.parent} is no folder: make it first")
    weights = network.read(path, checkpoint)
    try:
        return FORMATS[format_name](path, weights, file)
    except ModuleNotFoundError as error:
        raise ValueError(f'{error}: pip install "siamese_jax[export]"') from None


def _write_safetensors(
    path: str | pathlib.Path, weights: export.Weights, file: pathlib.Path
) -> list[ExportedFile]:
    del path
    safetensors_file.write(file, weights)
    return [ExportedFile(file, "parameters, config and records; siamese_jax.load reads it")]


def _write_onnx(
    path: str | pathlib.Path, weights: export.Weights, file: pathlib.Path
) -> list[ExportedFile]:
    from siamese_jax.inference.export import onnx_models

    net = network.load(path, weights.step)
    return _write_two(file, net, onnx_models.make_models(net, _metadata(weights, net)))


def _write_stablehlo(
    path: str | pathlib.Path, weights: export.Weights, file: pathlib.Path
) -> list[ExportedFile]:
    from siamese_jax.inference.export import stablehlo

    net = network.load(path, weights.step)
    return _write_two(file, net, stablehlo.make_functions(net))


def _write_two(
    file: pathlib.Path, net: network.Siamese, contents: tuple[bytes, bytes]
) -> list[ExportedFile]:
    """Writes the encoder and the comparator."""
    encoder, comparator = contents
    second = file.with_suffix(f".comparator{file.suffix}")
    for target, data in ((file, encoder), (second, comparator)):
        files.replace_bytes(target, data)
    size = net.embedding_size
    vectors = not net.has_pictures and file.suffix == ".onnx"
    shape = ", ".join(map(str, net.image_shape[1:2] if vectors else net.image_shape))
    return [
        ExportedFile(
            file,
            f"{'vectors' if vectors else 'images'} (batch, {shape}) -> embeddings (batch, {size})",
        ),
        ExportedFile(
            second,
            f"embeddings1 (queries, {size}), embeddings2 (supports, {size}) -> scores "
            "(queries, supports)",
        ),
    ]


def _metadata(weights: export.Weights, net: network.Siamese) -> dict[str, str]:
    """What a model says of itself."""
    return {
        "name": net.name,
        "step": str(weights.step),
        "kind": net.kind,
        "image_shape": json.dumps(net.image_shape),
        "config": json.dumps(workdir.plain(weights.config)),
        "provenance": json.dumps(weights.provenance),
    }


FORMATS: dict[str, Callable[..., list[ExportedFile]]] = {
    "onnx": _write_onnx,
    "safetensors": _write_safetensors,
    "stablehlo": _write_stablehlo,
}
