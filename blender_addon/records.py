"""The backend's list of jobs beside ours: what it knows better, and jobs of others; no bpy."""

from shared_protocol import messages

from .jobs import Job, JobList, State


def take_records(jobs: JobList, records: tuple[messages.JobRecord, ...]) -> list[Job]:
    """Take in one page of records; returns the jobs that were not known."""
    new = []
    for record in records:
        job = jobs.jobs.get(record.job)
        if job is not None:
            job.position = record.position
            job.started = record.started or job.started
        elif record.state == messages.SUCCEEDED and record.job not in jobs.hidden:
            new.append(_job(record))
    jobs.take_in(new)
    return new


def _job(record: messages.JobRecord) -> Job:
    """A finished job that this Blender has not sent: its settings and seed are known, its picture is not."""
    engines = {
        path.removesuffix(".engine"): str(value)
        for path, value in record.options.items()
        if path.endswith(".engine")
    }
    options = {path: value for path, value in record.options.items() if not path.endswith(".engine")}
    return Job(
        record.job,
        record.label or "job",
        record.seed,
        {"quality": record.quality, "engines": engines, "options": options},
        state=State.STORED,
        recipe=record.recipe,
        client=record.client,
        created=record.created,
        started=record.started,
        reused=record.reused,
        offered=True,
    )
