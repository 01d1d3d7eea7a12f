"""Several processes that train together, one on each host."""

from __future__ import annotations

import logging
import os
import re
import sys

import jax


def join(
    coordinator: str | None, count: int | None, number: int, by_itself: bool, heartbeat: int
) -> bool:
    """Connects this process with the others; does nothing for a single one.

    Processes after the first keep quiet from then on.

    Args:
        coordinator: `host:port` of process 0.
        count: number of processes; None where it is not said, and there is one.
        number: of this process, from 0.
        by_itself: whether jax finds the other processes by itself.
        heartbeat: seconds until a silent process counts as lost.

    Returns:
        Whether there are several processes, which have to `jax.distributed.shutdown()` in the end.

    Raises:
        ValueError: the arguments do not go together, or the processes do not find each other.
    """
    if count is None and (coordinator or number):
        raise ValueError("--coordinator and --process_id need --num_processes")
    count = count or 1
    if number >= count:
        raise ValueError(f"--process_id={number} must be below --num_processes={count}")
    if count > 1 and not re.fullmatch(r"\S+:\d{1,5}", coordinator or ""):
        raise ValueError(f"--num_processes={count} needs --coordinator=host:port")
    if not by_itself and count == 1:
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from us
    try:
        if by_itself:
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat)
        else:
            place = coordinator, count, number
            jax.distributed.initialize(*place, heartbeat_timeout_seconds=heartbeat)
    except Exception as error:
        raise ValueError(f"the processes do not find each other: {error}") from error
    if jax.process_index() > 0:
        logging.getLogger("siamese_jax").setLevel(logging.WARNING)
        sys.stdout = open(os.devnull, "w")
    return True
