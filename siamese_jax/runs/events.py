"""TensorBoard's events, written without delay, so that a full disk is an error where it happens."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class Events:
    """A new file of events.

    Args:
        folder: of the files, made if it is missing.
        purge_step: TensorBoard forgets earlier files from this step on.
        suffix: of the file's name.
    """

    def __init__(self, folder: pathlib.Path, purge_step: int, suffix: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), suffix)
        self._write(purge_step, file_version="brain.Event:2")
        self._write(purge_step, session_log=SessionLog(status=SessionLog.START))
        self._writer.flush()

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Writes finite numbers by name."""
        for name, value in values.items():
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value)])
            self._write(step, summary=summary)
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()

    def _write(self, step: int, **what: Any) -> None:
        self._writer.write_event(Event(step=step, wall_time=time.time(), **what))
