"""One logged quantity, gathered point by point in the order of the log."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left

from lorascope.data.logs.curves import Curve


class Points:
    """Steps, rising, and values; a value that is not finite is kept as NaN. 16 bytes a point."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.values = array("d")

    def put(self, step: int, value: float) -> bool:
        """Add a point; True where it takes the place of one that was logged before."""
        if not self.steps or step > self.steps[-1]:
            self.steps.append(step)
            self.values.append(value)
            return False
        at = bisect_left(self.steps, step)
        if self.steps[at] == step:
            self.values[at] = value
            return True
        self.steps.insert(at, step)
        self.values.insert(at, value)
        return False

    def has(self, step: int) -> bool:
        """Whether there is a point at the step."""
        at = bisect_left(self.steps, step)
        return at < len(self.steps) and self.steps[at] == step

    def cut(self, step: int) -> int:
        """Drop all points from ``step`` on; returns how many."""
        at = bisect_left(self.steps, step)
        dropped = len(self.steps) - at
        del self.steps[at:], self.values[at:]
        return dropped

    def curve(self) -> Curve:
        """The points as a curve; None where a value is not finite."""
        return Curve(tuple(self.steps), tuple(value if math.isfinite(value) else None for value in self.values))
