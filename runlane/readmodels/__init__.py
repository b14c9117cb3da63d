"""Projections that are ready to use, and to be read as examples: statistics of tasks by hour, and failures by shape."""

from __future__ import annotations

from runlane.readmodels.failures import FailureShape, FailureShapes, SeenFailure, shape_of
from runlane.readmodels.hours import TaskHour, TaskHours
from runlane.readmodels.sketch import Sketch

__all__ = ["FailureShape", "FailureShapes", "SeenFailure", "Sketch", "TaskHour", "TaskHours", "shape_of"]
