"""Where the images of a training step come from: the device holds them all, or the host feeds them.

Either way the step draws the same batch: the host only reads the pixels of the rows that the step is
about to draw, some steps ahead.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools

import jax
import numpy as np

from siamese_jax.data.image_set import StreamedImages
from siamese_jax.inference.devices import Devices
from siamese_jax.readers import check_choice
from siamese_jax.training import objectives, sampling
from siamese_jax.training.step import make_rows

FEEDS = ("auto", "device", "host")
_MEMORY_SHARE = 0.5  # of a device's memory, at most, for images that live there
_UNKNOWN_MEMORY = 4 << 30  # bytes, of a device that does not report it


def from_host(choice: str, images: np.ndarray | StreamedImages, devices: Devices) -> bool:
    """Whether the host feeds the steps.

    Args:
        choice: `device`, `host`, or `auto`: the host where the images are streamed, or would take
            half of a device's memory or more (2 GiB if it does not report it).
        images: (M, H, W, C) uint8 to train on.
        devices: where the steps run; all processes get the same answer.

    Raises:
        ValueError: another choice.
    """
    check_choice("feed", choice, FEEDS)
    if choice != "auto":
        return choice == "host"
    size = int(np.prod(images.shape, dtype=np.int64))
    limit = _MEMORY_SHARE * (devices.memory or _UNKNOWN_MEMORY)
    return devices.agree(isinstance(images, StreamedImages) or size >= limit)


class HostFeed:
    """An endless iterator over the `images` of fed training steps (see `step.make_train_step`).

    A thread reads the images some steps ahead and puts them on the devices. Of several processes
    each reads only those of its devices. `close` it, or use it in a `with` statement.

    Args:
        source: (M, H, W, C) uint8 images, indexed by an array of rows.
        objective: as the step's.
        index: of `objectives.make_index`.
        rng: of the state, `TrainState.rng`.
        start_step: updates made before the first batch.
        devices: where the steps run.
        depth: batches ahead.
    """

    def __init__(
        self,
        source: np.ndarray | StreamedImages,
        objective: objectives.Objective,
        index: sampling.SetIndex,
        rng: jax.Array,
        start_step: int,
        devices: Devices,
        depth: int = 2,
    ) -> None:
        self._source = source
        self._devices = devices
        self._index = index
        self._rng = rng
        # Compiled here, since settings such as float64 may be this thread's alone.
        self._rows = make_rows(objective).lower(rng, np.int32(0), index).compile()
        self._steps = itertools.count(start_step)
        self._reader = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="host-feed")
        self._ahead: collections.deque[concurrent.futures.Future] = collections.deque()
        for _ in range(depth):
            self._read_ahead()

    def __enter__(self) -> HostFeed:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> HostFeed:
        return self

    def __next__(self) -> jax.Array:
        """The images of the next step; an error in reading them is raised here."""
        self._read_ahead()
        return self._ahead.popleft().result()

    def close(self) -> None:
        """Ends the thread."""
        self._reader.shutdown(cancel_futures=True)

    def _read_ahead(self) -> None:
        self._ahead.append(self._reader.submit(self._read, next(self._steps)))

    def _read(self, step: int) -> jax.Array:
        rows = np.asarray(self._rows(self._rng, np.int32(step), self._index))
        return self._devices.place(self._source[self._devices.local_part(rows).reshape(-1)])
