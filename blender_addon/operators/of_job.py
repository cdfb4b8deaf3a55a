"""What the operators that act on one job share."""

import bpy

from .. import session
from ..jobs import Job


class OfJob:
    """Mixed into an operator with a property `job`."""

    job: bpy.props.StringProperty(options={"SKIP_SAVE", "HIDDEN"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return session.current() is not None

    def found(self) -> Job | None:
        """The job, or None after a report."""
        job = session.current().jobs.jobs.get(self.job)
        if job is None:
            self.report({"ERROR"}, "This job is not known any more")
        return job
