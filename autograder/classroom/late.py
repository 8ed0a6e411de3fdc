"""nbgrader's late penalties, by the rules of ``course.toml``."""

from __future__ import annotations

import math

from nbgrader.plugins import LateSubmissionPlugin
from traitlets import Float

DAY = 24 * 60 * 60


class LatePolicy(LateSubmissionPlugin):  # type: ignore[misc]  # nbgrader has no types
    """A share of the points for each day, begun days included."""

    per_day = Float(0.0, help="The share of the points that a day costs.").tag(config=True)
    at_most = Float(1.0, help="The largest share that can be lost.").tag(config=True)
    grace_minutes = Float(0.0, help="So much later is not late.").tag(config=True)

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float | None:
        """The points that are lost; None if there are none to lose."""
        over = total_seconds_late - 60 * self.grace_minutes
        share = min(self.at_most, self.per_day * math.ceil(over / DAY)) if over > 0 else 0.0
        return score * share or None
