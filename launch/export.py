"""Writes a trained network as ONNX, StableHLO or safetensors, for use outside of this package.

    python launch/export.py --pretrained=omniglot --out=omniglot.onnx
    python launch/export.py --workdir=runs/quickstart --out=quickstart.stablehlo

ONNX and StableHLO are two files, each for any batch size: FILE.onnx, from images to embeddings, and
FILE.comparator.onnx, from two sets of embeddings to scores. safetensors is one file of parameters with
the config as metadata, which siamese_jax.load reads. Needs the extra: pip install -e ".[export]".
"""

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run whose network is written.")
_PRETRAINED = flags.DEFINE_string("pretrained", None, "A network of the package, instead of a run.")
_CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "best, latest or a step.")
_OUT = flags.DEFINE_string("out", None, "File.onnx, .stablehlo or .safetensors to write.")
flags.mark_flag_as_required("out")


def main(argv):
    del argv
    if (_WORKDIR.value is None) == (_PRETRAINED.value is None):
        raise ValueError("give one of --workdir=RUN and --pretrained=NAME")
    from siamese_jax.inference import export  # jax is slow to import: usage errors need not wait

    checkpoint = cli.checkpoint(_CHECKPOINT.value)
    path = _PRETRAINED.value or _WORKDIR.value
    for file in export.export_network(path, _OUT.value, checkpoint):
        print(f"{file.path} ({file.path.stat().st_size / 1e6:.1f} MB): {file.contents}")


if __name__ == "__main__":
    cli.run(main)
