"""Draw a symbol, name it, draw it again, and it is recognised: a page served on this computer.

    python launch/demo.py
    python launch/demo.py --gallery=symbols.npz --network=runs/best
    python launch/demo.py --network=runs/best --calibrate --archives=DIR --calibration=best.json

It prints its address. Needs the extra: pip install -e ".[demo]". A network of your own needs a
calibration to say "unknown"; --calibrate makes it of Omniglot's validation alphabets (some minutes)
and ends.
"""

from absl import flags

import siamese_jax
from siamese_jax import cli

siamese_jax.tune_cpu()

_NETWORK = flags.DEFINE_string(
    "network", "omniglot", "A network of the package, or a run's workdir."
)
_GALLERY = flags.DEFINE_string("gallery", None, "File in which taught symbols are kept.")
_PORT = flags.DEFINE_integer("port", 0, "Port on 127.0.0.1; 0 takes a free one.")
_CALIBRATION = flags.DEFINE_string("calibration", None, "File of the network's calibration.")
_CALIBRATE = flags.DEFINE_bool("calibrate", False, "Write that file and end.")
_ARCHIVES = flags.DEFINE_string("archives", None, "calibrate: folder with Omniglot's archives.")


def main(argv):
    del argv
    from siamese_jax.recognition import symbol_calibration, symbols

    net = siamese_jax.load(_NETWORK.value)
    if _CALIBRATE.value:
        if not _CALIBRATION.value:
            raise ValueError("--calibrate writes a file: name it with --calibration=FILE")
        calibrated = symbol_calibration.make(net, _ARCHIVES.value)
        symbol_calibration.write(_CALIBRATION.value, net, calibrated)
        print(symbol_calibration.describe(calibrated))
        return
    try:
        from siamese_jax.recognition import server
    except ImportError as error:
        raise ValueError(f'{error}: pip install -e ".[demo]"') from None
    calibration = _CALIBRATION.value and symbol_calibration.read(_CALIBRATION.value, net)
    server.serve(net, *symbols.open_gallery(net, _GALLERY.value, calibration), _PORT.value)


if __name__ == "__main__":
    cli.run(main)
