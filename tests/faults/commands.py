"""Faults done to commands in processes of their own: kills, full disks, and inputs that want memory."""

from __future__ import annotations

import random
import signal
import textwrap

from tests.faults.bench import Bench, command, python

_KILL = """
import os, signal
events = 0
def counted(name):
    call = getattr(os, name)
    def wrapped(*args, **more):
        global events
        events += 1
        if events == {number}:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **more)
    setattr(os, name, wrapped)
for name in ('replace', 'rename', 'fsync', 'mkdir', 'rmdir', 'unlink'):
    counted(name)
"""
_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
_UNCHECKED = """
from siamese_jax.runs import checkpoints
checkpoints.Checkpoints._check_space = lambda *args: None  # the room goes while Orbax writes
"""


def _ends_whole(bench: Bench, path) -> str | None:
    done = command(path)
    if done.returncode:
        return f"it does not go on: {done.stderr[-200:]}"
    return None if bench.is_unbroken(path, True) else "other parameters or another log"


def killed(bench: Bench, rng: random.Random) -> str | None:
    """A training is killed at any replacing, renaming, flushing or removing of a file."""
    path = bench.fresh()
    done = command(path, _KILL.format(number=rng.randint(1, 90)))
    if done.returncode not in (0, -signal.SIGKILL):
        return f"exit {done.returncode}: {done.stderr[-200:]}"
    return _ends_whole(bench, path)


def _without_room(bench: Bench, size: int, before: str) -> str | None:
    _ = bench.commanded  # whose programs are then in the cache, which cannot be written
    path = bench.fresh()
    done = command(path, before + _LIMIT.format(size=size))
    lines = [x for x in done.stderr.splitlines() if x.startswith("launch/train.py: ")]
    noise = any(word in done.stderr for word in ("Traceback", "Error: ", "Exception ignored"))
    if noise or done.returncode not in (0, 1) or len(lines) != done.returncode:
        return f"{size} bytes, exit {done.returncode}, {len(lines)} lines: {done.stderr[-500:]}"
    return _ends_whole(bench, path)


def full_disk(bench: Bench, rng: random.Random) -> str | None:
    """No file may grow beyond a size: one line and exit 1, and afterwards the same command goes on."""
    return _without_room(bench, int(2 ** rng.uniform(6, 20)), "")


def disk_fills_in_orbax(bench: Bench, rng: random.Random) -> str | None:
    """The same, where the room was there when it was tried and is gone while Orbax writes."""
    return _without_room(bench, int(2 ** rng.uniform(10, 16)), _UNCHECKED)


# What wants memory: how it is made, how the package reads it, and bytes of the decoded set.
_HUNGRY = {
    "a gigabyte of zeros in a zip": (
        """
with zipfile.ZipFile(place / 'x.zip', 'w', zipfile.ZIP_DEFLATED) as archive:
    with archive.open('a/1.png', 'w', force_zip64=True) as entry:
        for _ in range(1024):
            entry.write(bytes(2**20))
""",
        "folder.load_folder(place / 'x.zip')",
        0,
    ),
    "a picture of 13,000 x 13,000 pixels of 16 bits": (
        """
def chunk(kind, data):
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
squeeze = zlib.compressobj(1)
rows = b''.join(squeeze.compress(bytes(26001)) for _ in range(13000)) + squeeze.flush()
header = struct.pack('>IIBBBBB', 13000, 13000, 16, 0, 0, 0, 0)
(place / 'set' / 'a').mkdir(parents=True)
(place / 'set' / 'a' / '1.png').write_bytes(
    b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b''))
""",
        "folder.load_folder(place / 'set')",
        0,
    ),
    "the largest picture that is read, with transparency": (
        """
(place / 'set' / 'a').mkdir(parents=True)
Image.new('RGBA', (8192, 8192)).save(place / 'set' / 'a' / '1.png', compress_level=1)
""",
        "folder.load_folder(place / 'set', image_size=(8192, 8192))",
        3 * 8192**2,
    ),
    "a character number of 999999999": (
        """
picture = io.BytesIO()
Image.new('1', (105, 105)).save(picture, 'PNG')
for name in archives.FILES:
    with zipfile.ZipFile(place / name, 'w') as archive:
        archive.writestr('x/A/character999999999/0001_01.png', picture.getvalue())
""",
        "archives.read(archives.find(place))",
        0,
    ),
    "a CSV of 100,000 columns": (
        """
line = ','.join(map(str, range(100_000)))
(place / 'x.csv').write_text('\\n'.join([line] * 40))
""",
        "vectors.load_vectors(place / 'x.csv')",
        0,
    ),
    "a pipe as list of pairs": (
        "os.mkfifo(place / 'pairs.csv')",
        "pairs_csv.read_pairs(place / 'pairs.csv', (9, 9, 1), 'photo')",
        0,
    ),
    "an array that declares a terabyte": (
        """
header = {'descr': '<f8', 'fortran_order': False, 'shape': (2**37,)}
with zipfile.ZipFile(place / 'x.npz', 'w') as archive, archive.open('features.npy', 'w') as entry:
    np.lib.format.write_array_header_1_0(entry, header)
""",
        "vectors.load_vectors(place / 'x.npz')",
        0,
    ),
    "the largest JSON that is read, of brackets": (
        """(place / 'x.json').write_text('{"a": [' + '{},' * ((2**23 - 20) // 3) + '{}]}')""",
        "readers.read_json(place / 'x.json', dict)",
        0,
    ),
    "a gzip of a gigabyte of zeros": (
        """
with gzip.open(place / 'x.gz', 'wb', compresslevel=1) as file:
    for _ in range(1024):
        file.write(bytes(2**20))
""",
        "mnist._read_idx(place / 'x.gz', 0x803, (60000, 28, 28))",
        0,
    ),
}
_MEASURED = """
import gzip, io, os, pathlib, signal, struct, zipfile, zlib
import numpy as np
from PIL import Image
from siamese_jax import readers
from siamese_jax.data import archives, folder, mnist, vectors
from siamese_jax.evaluation import pairs_csv
place = pathlib.Path({place!r})
signal.alarm(600)
if not (child := os.fork()):  # whose memory does not count
{make}
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
try:
    {read}
    print('read')
except (ValueError, OSError) as error:
    print('told' if len(str(error)) < 1000 else f'long: {{str(error)[:200]}}')
# Of this program alone: what `getrusage` tells begins with the memory of the process that started it.
status = pathlib.Path('/proc/self/status').read_text()
print(int(status.split('VmHWM:')[1].split()[0]) * 1024)
"""
_MOST = 500 * 10**6  # bytes besides twice the decoded set, Python and its libraries included


def wants_memory(bench: Bench, rng: random.Random) -> str | None:
    """A file that declares or unpacks to far more than it is."""
    return hungry(bench.fresh(), rng.choice(sorted(_HUNGRY)), bench.folder / "cache")


def hungry(place, what: str, cache) -> str | None:
    """Reads one of `_HUNGRY` in a process of its own, and measures the most memory that it had."""
    place.mkdir()
    make, read, decoded = _HUNGRY[what]
    make = textwrap.indent(make.strip(), "    ")
    done = python(_MEASURED.format(place=str(place), make=make, read=read), cache)
    if done.returncode:
        return f"{what}: exit {done.returncode}: {done.stderr[-300:]}"
    answer, most = done.stdout.split("\n")[:2]
    if int(most) > 2 * decoded + _MOST:
        return f"{what}: {int(most) / 1e6:.0f} MB"
    return None if answer in ("read", "told") else f"{what}: {answer}"
