"""One device or several: the only place that knows how many there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from siamese_jax.data.image_set import StreamedImages

NO_IMAGES = "no images are given: at least one is needed"


class Devices:
    """One device or several: compiles per-device functions, shares arrays out, brings them home.

    Several processes (`jax.distributed`) run the same program, each on its own devices; arrays that
    carry a device axis hold the part of the calling process.

    Args:
        count: number of devices over all processes, 0 for all there are.

    Raises:
        ValueError: more devices than there are, or not all of several processes.
    """

    def __init__(self, count: int = 1) -> None:
        available = jax.device_count()
        if not 0 <= count <= available:
            raise ValueError(f"num_devices is {count}, but there are {available} devices (0 = all)")
        if jax.process_count() > 1 and count not in (0, available):
            raise ValueError(
                f"num_devices is {count}, but {jax.process_count()} processes have {available} "
                "devices and use them all: set it to 0"
            )
        self.count = count or available
        self.axis_name = "devices" if self.count > 1 else None
        self._all = jax.devices()[: self.count]
        mine = [i for i, d in enumerate(self._all) if d.process_index == jax.process_index()]
        self._mine = slice(mine[0], mine[-1] + 1)

    @property
    def primary(self) -> bool:
        """Whether this is the process that logs."""
        return jax.process_index() == 0

    @property
    def memory(self) -> int | None:
        """Bytes of the smallest memory among this process's devices; None where it is unknown."""
        stats = [device.memory_stats() or {} for device in self._all[self._mine]]
        return min((x["bytes_limit"] for x in stats if "bytes_limit" in x), default=None)

    def agree(self, flag: bool) -> bool:
        """Whether the flag is set in any process; every process must call this."""
        if jax.process_count() == 1:
            return flag
        return bool(multihost_utils.process_allgather(np.array(flag)).any())

    def compile(self, function: Callable, donate_argnums: tuple[int, ...] = ()) -> Callable:
        """Compiles a per-device function; on several devices arguments carry a device axis."""
        if self.axis_name is None:
            return jax.jit(function, donate_argnums=donate_argnums)
        return jax.pmap(
            function,
            axis_name=self.axis_name,
            devices=self._all,
            donate_argnums=donate_argnums,
        )

    def replicate(self, tree: Any) -> Any:
        """Puts one copy of a tree on every device."""
        if self.axis_name is None:
            return jax.tree.map(_copied, tree)
        # The same axis name as in `compile`: another one would compile every step twice.
        copy = jax.pmap(
            lambda tree, _: tree,
            axis_name=self.axis_name,
            in_axes=(None, 0),
            devices=self._all,
        )
        return copy(tree, np.arange(self.count)[self._mine])

    def first(self, tree: Any) -> Any:
        """This process's first copy of a replicated tree; the devices do nothing for it."""
        if self.axis_name is None:
            return tree
        return jax.tree.map(lambda x: x.addressable_shards[0].data.reshape(x.shape[1:]), tree)

    def share(self, tree: Any) -> Any:
        """This device's part of arrays that every device holds whole (inside a compiled step)."""
        if self.axis_name is None:
            return tree
        part = jax.lax.axis_index(self.axis_name)

        def cut(x: jax.Array) -> jax.Array:
            size = x.shape[0] // self.count
            return jax.lax.dynamic_slice_in_dim(x, part * size, size)

        return jax.tree.map(cut, tree)

    def local_part(self, x: np.ndarray) -> np.ndarray:
        """What `share` gives this process's devices together, read off an array on the host.

        Args:
            x: (B, ...), B a multiple of the number of devices.

        Returns:
            (B x local devices / all devices, ...).
        """
        return x.reshape(self.count, -1, *x.shape[1:])[self._mine].reshape(-1, *x.shape[1:])

    def place(self, x: np.ndarray) -> jax.Array:
        """Puts this process's part of an array, as `local_part` gives it, on its devices for a step."""
        if self.axis_name is None:
            return jax.device_put(x)
        x = x.reshape(self._mine.stop - self._mine.start, -1, *x.shape[1:])
        mesh = Mesh(np.array(self._all), (self.axis_name,))
        sharding = NamedSharding(mesh, PartitionSpec(self.axis_name))
        return jax.make_array_from_process_local_data(sharding, x)

    def gather(self, x: jax.Array) -> jax.Array:
        """The whole of an array whose leading axis the devices share (inside a compiled step)."""
        return x if self.axis_name is None else jax.lax.all_gather(x, self.axis_name, tiled=True)

    def mean(self, tree: Any) -> Any:
        """Mean over devices (inside a compiled step)."""
        return tree if self.axis_name is None else jax.lax.pmean(tree, self.axis_name)

    def batches(
        self, step: Callable, variables: Any, images: np.ndarray | StreamedImages, batch: int
    ) -> np.ndarray:
        """Runs an image step over any number of images, in equal batches shared by the devices.

        The last batch is padded with copies of the last image, whose results are dropped.

        Args:
            step: compiled (variables, (B, H, W, C)) -> (B, ...), its results gathered.
            variables: replicated.
            images: (M, H, W, C).
            batch: images a call over all devices; at most the next power of two of all images, and
                rounded up to a multiple of the number of devices.

        Returns:
            (M, ...) NumPy results.

        Raises:
            ValueError: no images.
        """
        if not len(images):
            raise ValueError(NO_IMAGES)
        batch = min(batch, 1 << (len(images) - 1).bit_length())  # few shapes, few compilations
        batch = -(-batch // self.count) * self.count
        return np.concatenate(
            [
                self.call(step, variables, [images[begin : begin + batch]], batch=batch)
                for begin in range(0, len(images), batch)
            ]
        )

    def call(
        self,
        step: Callable,
        variables: Any,
        shared: Sequence[np.ndarray],
        whole: Sequence[np.ndarray | jax.Array] = (),
        batch: int = 1,
    ) -> np.ndarray:
        """Calls a step once; the devices share the rows of some arrays and get others whole.

        Args:
            step: compiled (variables, *shared, *whole) -> (B, ...), its results gathered.
            variables: replicated.
            shared: arrays of B rows. They are padded with copies of their last row, up to a multiple
                of `batch` and of the number of devices; the results of these are dropped.
            whole: further arrays.
            batch: see `shared`.

        Returns:
            (B, ...) NumPy results.
        """
        rows = len(shared[0])
        shared = [_padded(x, batch) for x in shared]
        if self.axis_name is None:
            return np.asarray(step(variables, *shared, *whole))[:rows]
        shared = [_padded(x, self.count) for x in shared]
        shared = [x.reshape(self.count, -1, *x.shape[1:])[self._mine] for x in shared]
        copies = self._mine.stop - self._mine.start
        whole = [np.broadcast_to(x, (copies, *x.shape)) for x in whole]
        return np.asarray(self.first(step(variables, *shared, *whole)))[:rows]


def _padded(x: np.ndarray, multiple: int) -> np.ndarray:
    """The rows, and copies of the last one up to a multiple of a number."""
    return np.concatenate([x, np.repeat(x[-1:], -len(x) % multiple, 0)])


def _copied(x: Any) -> jax.Array:
    """An array's copy on the device; `jnp.array` would compile a program for every shape of NumPy's."""
    return jax.device_put(np.array(x)) if isinstance(x, np.ndarray) else jnp.array(x)
