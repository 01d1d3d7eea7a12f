"""The kinds of faults. What counts as kept: the same bits as without it, or one line that says why not.

A case returns nothing where the project did as promised, else a sentence.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.faults import commands, inputs, models, runs
from tests.faults.bench import Bench

Case = Callable[[Bench, random.Random], str | None]

# Cases by kind, and how many of 2,000 are of it.
KINDS: dict[str, tuple[Case, int]] = {
    "a bit of a run flipped, and resumed": (runs.flipped_and_resumed, 200),
    "a file of a run lost, cut short or changed, and resumed": (runs.lost_and_resumed, 160),
    "config, provenance or log of a run edited, and resumed": (runs.edited_and_resumed, 120),
    "a file of a run damaged or edited, and loaded": (runs.damaged_and_loaded, 160),
    "what a kill at a file operation leaves, resumed": (runs.left_by_a_kill, 130),
    "a file operation that fails, and resumed": (runs.operation_fails, 120),
    "no file beyond some size, and resumed": (runs.no_large_file, 60),
    "a checkpoint or config of another run": (runs.another_run, 40),
    "two writers of a run": (runs.two_writers, 10),
    "a file of weights damaged": (inputs.damaged_weights, 120),
    "a file of weights edited": (inputs.edited_weights, 60),
    "a gallery damaged or edited": (inputs.damaged_gallery, 100),
    "a gallery written among links": (inputs.gallery_through_a_link, 20),
    "results.json, evaluation.npz or a calibration damaged": (inputs.damaged_record, 100),
    "JSON, NPZ, zip, picture or gzip damaged": (inputs.damaged_data, 150),
    "a table or list of pairs damaged": (inputs.damaged_table, 60),
    "a folder of pictures with strange contents": (inputs.strange_folder, 70),
    "a field of a config with any value": (inputs.config_field, 140),
    "the file of a config damaged": (inputs.damaged_config, 40),
    "a flag with any value": (inputs.strange_flag, 60),
    "a system that goes by places, calls or company": (models.wrong_model, 24),
    "a name that means something to HTML or TeX": (models.strange_name, 10),
    "a training killed at a file operation": (commands.killed, 14),
    "a command without room for a file beyond some size": (commands.full_disk, 10),
    "a disk that fills while Orbax writes": (commands.disk_fills_in_orbax, 10),
    "an input that wants memory": (commands.wants_memory, 12),
}
IN_PROCESSES = tuple(
    kind for kind, (case, _) in KINDS.items() if case.__module__ == commands.__name__
)
