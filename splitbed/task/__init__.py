"""What the pictures mean to a model: preprocessing, label rule, post-processing, as data.

The same description serves the device, the edge (for the network anchor), calibration and
verification, so that all of them feed a model alike.
"""

from splitbed.task.answer import Answerer, agreement
from splitbed.task.boxes import BoxesSpec, BoxFinder, intersections, overlaps
from splitbed.task.catalogue import description_file, find_task, models_folder, written_task
from splitbed.task.key_points import KeyPointFinder, KeyPointsSpec
from splitbed.task.picture import Placement, Preprocessor, picture_files, read_picture
from splitbed.task.spec import (
    PICTURE_CUT,
    RESULT_CUT,
    TaskSpec,
    picture_spec,
    result_boundary,
    shapes_to_bind,
    task_from_json,
    task_json,
)

__all__ = [
    "PICTURE_CUT",
    "RESULT_CUT",
    "Answerer",
    "BoxFinder",
    "BoxesSpec",
    "KeyPointFinder",
    "KeyPointsSpec",
    "Placement",
    "Preprocessor",
    "TaskSpec",
    "agreement",
    "description_file",
    "find_task",
    "intersections",
    "models_folder",
    "overlaps",
    "picture_files",
    "picture_spec",
    "read_picture",
    "result_boundary",
    "shapes_to_bind",
    "task_from_json",
    "task_json",
    "written_task",
]
