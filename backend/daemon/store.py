"""The job store: jobs, their events and results in SQLite (WAL). What it acknowledged survives kill -9.

    queued -> running -> succeeded | failed | cancelled
       ^         |
       +---------+  interrupted: the worker or the daemon ended in the middle

A final state is never left, an event's number only grows, and there is exactly one final event. Each
transition checks and writes in one transaction. Commits that a client relies on (submit, cancel, final
states) are synced to the disk; the rest are left to the write-ahead log.
"""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.daemon.database import Database
from backend.daemon.waiting import WaitingJobs
from shared_protocol import messages
from shared_protocol.errors import Conflict, InvalidInput, LimitExceeded, UnknownJob, WorkerCrashed
from shared_protocol.messages import (
    CANCELLED,
    FAILED,
    QUEUED,
    RUNNING,
    TERMINAL,
    Event,
    Failure,
    InputFile,
    JobRecord,
    ResultFile,
    Submit,
)

MAX_CRASHES = 2
"""A job whose worker died this often with no stage finished in between is failed (`worker_crashed`)."""
MAX_INTERRUPTIONS = 20
"""So is one during which the daemon itself died this often, likewise."""
RESULTS_QUOTA_BYTES = 20 << 30
KEEP_SECONDS = 7 * 24 * 3600.0
"""How long the records and results of ended jobs are kept, and how many bytes of results at most."""


def submit_content(submit: Submit) -> str:
    """Hash of all that a submission asks for, the job's id aside: equal texts are the same request."""
    plain = messages.to_plain(submit)
    del plain["job"]
    if not plain["priority"]:
        del plain["priority"]  # as stored by the version that knew none
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


class JobStore:
    """The jobs of one state folder. Used by one thread; `now` is seconds since 1970."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path)
        self._waiting = WaitingJobs(self._db)
        self.heads: dict[str, int] = {}
        """Number of the latest event of each job that had one since the start."""
        self._may_be_queued = True

    def close(self) -> None:
        """Fold the write-ahead log in and let go of the file."""
        self._db.close()

    # ---- transitions

    def submit(
        self,
        submit: Submit,
        client: str,
        stages: int,
        now: float,
        queue_limit: int,
        reused: Sequence[str] = (),
    ) -> tuple[JobRecord, bool]:
        """(record, whether it is new), on disk when this returns.

        reused  stages whose result is stored already
        Conflict for a known id with other content; LimitExceeded when the client's queue is full.
        """
        content = submit_content(submit)
        with self._db.transaction(durable=True):
            row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (submit.job,)).fetchone()
            if row is not None:
                if row["content"] != content:
                    raise Conflict(
                        f"job {submit.job} exists with other content",
                        "the same content, or a new job id",
                        job=submit.job,
                    )
                return self._record(row), False
            waiting = self._waiting.count(client)
            if waiting >= queue_limit:
                raise LimitExceeded(
                    f"{waiting} jobs are waiting", f"at most {queue_limit}", "Cancel some, or wait."
                )
            self._db.execute(
                "INSERT INTO jobs (id, client, state, recipe, quality, seed, options, inputs, label, content,"
                " created, stages, priority, reused, place) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,"
                " (SELECT coalesce(max(number), 0) + 1 FROM jobs))",
                (
                    submit.job, client, QUEUED, submit.recipe, submit.quality, submit.seed,
                    json.dumps(submit.options), json.dumps([asdict(i) for i in submit.inputs]),
                    submit.label, content, now, stages, submit.priority, json.dumps(list(reused)),
                ),
            )  # fmt: skip
            self._add_event(submit.job, QUEUED, QUEUED, now)
        return self.get(submit.job), True

    def claim(self, now: float) -> Submit | None:
        """The next job in the queue, now running; None when there is none, or the queue is paused."""
        if not self._may_be_queued or self._waiting.paused:
            return None
        with self._db.transaction(durable=False):
            job = self._waiting.next()
            if job is None:
                self._may_be_queued = False
                return None
            row = self._row(job)
            self._db.execute(
                "UPDATE jobs SET state = ?, attempts = attempts + 1, reused = '[]',"
                " started = CASE started WHEN 0 THEN ? ELSE started END WHERE id = ?",
                (RUNNING, now, row["id"]),
            )
            self._waiting.served(row["client"])
            self._add_event(row["id"], RUNNING, RUNNING, now)
        return Submit(
            row["id"],
            row["recipe"],
            tuple(InputFile(**fields) for fields in json.loads(row["inputs"])),
            row["quality"],
            json.loads(row["options"]),
            row["seed"],
            row["label"],
            row["priority"],
        )

    def stage_event(self, event: Event) -> None:
        """A stage of a running job was started, finished or reused; ignored when the job has ended."""
        with self._db.transaction(durable=False):
            row = self._db.execute(
                "SELECT reused FROM jobs WHERE id = ? AND state = ?", (event.job, RUNNING)
            ).fetchone()
            if row is None:
                return
            reused = json.loads(row["reused"]) + ([event.stage] if event.kind == "reused" else [])
            further = event.kind == "finished" and not self._has_finished(event.job, event.stage)
            self._db.execute(
                "UPDATE jobs SET stage = ?, stage_index = ?, stages = ?, reused = ?,"
                " interruptions = CASE ? WHEN 1 THEN 0 ELSE interruptions END,"
                " crashes = CASE ? WHEN 1 THEN 0 ELSE crashes END WHERE id = ?",
                (event.stage, event.index, event.stages, json.dumps(reused), further, further, event.job),
            )
            self._add_event(event.job, event.kind, RUNNING, event.time, event)

    def _has_finished(self, job: str, stage: str) -> bool:
        """Whether this stage was finished in an earlier attempt: then doing it again is no progress."""
        rows = self._db.execute("SELECT event FROM events WHERE job = ?", (job,))
        events = (json.loads(row["event"]) for row in rows)
        return any(event["kind"] == "finished" and event.get("stage") == stage for event in events)

    def finish(
        self,
        job: str,
        state: str,
        now: float,
        error: Failure | None = None,
        results: Sequence[ResultFile] = (),
    ) -> bool:
        """Bring a job to a final state; False when it has one already."""
        with self._db.transaction(durable=True):
            return self._finish(job, state, now, error, results)

    def _finish(
        self, job: str, state: str, now: float, error: Failure | None, results: Sequence[ResultFile] = ()
    ) -> bool:
        plain = json.dumps(messages.to_plain(error)) if error else None
        changed = self._db.execute(
            "UPDATE jobs SET state = ?, finished = ?, error = ? WHERE id = ? AND state IN (?, ?)",
            (state, now, plain, job, QUEUED, RUNNING),
        ).rowcount
        if not changed:
            return False
        for file in results:
            self._db.execute(
                "INSERT OR REPLACE INTO results (job, name, sha256, size) VALUES (?, ?, ?, ?)",
                (job, file.name, file.sha256, file.size),
            )
        self._add_event(job, state, state, now, error=error)
        return True

    def cancel(self, job: str, now: float) -> JobRecord:
        """Note the wish. A queued job is cancelled at once, a running one when its worker has stopped."""
        with self._db.transaction(durable=True):
            row = self._row(job)
            if row["state"] == QUEUED:
                self._finish(job, CANCELLED, now, None)
            elif row["state"] == RUNNING and not row["cancelling"]:
                self._db.execute("UPDATE jobs SET cancelling = 1 WHERE id = ?", (job,))
                self._add_event(job, "cancelling", RUNNING, now)
        return self.get(job)

    def interrupted(self, job: str, now: float, *, crashed: bool, words: str) -> JobRecord:
        """The worker (`crashed`) or the daemon ended while this job ran: back to the queue, or to its end.

        Stages that were finished are found again in the artifact store.
        """
        with self._db.transaction(durable=True):
            row = self._row(job)
            if row["state"] != RUNNING:
                return self._record(row)
            column = "crashes" if crashed else "interruptions"
            count, most = row[column] + 1, MAX_CRASHES if crashed else MAX_INTERRUPTIONS
            self._db.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (count, job))
            if row["cancelling"]:
                self._finish(job, CANCELLED, now, None)
            elif count >= most:
                error = WorkerCrashed(
                    f"{words} during {row['stage'] or 'the start'}, {count} times",
                    remedy="Try a lower quality or a smaller picture; the log of the worker has the details.",
                    stage=row["stage"],
                    attempts=row["attempts"],
                )
                self._finish(job, FAILED, now, Failure.of(error))
            else:
                self._db.execute("UPDATE jobs SET state = ? WHERE id = ?", (QUEUED, job))
                self._waiting.goes_on(row["client"])
                self._add_event(job, "requeued", QUEUED, now, text=f"{words}; the job will go on")
        return self.get(job)

    def recover(self, now: float) -> None:
        """At start: what was running when the daemon died goes back to the queue."""
        for row in self._db.execute("SELECT id FROM jobs WHERE state = ?", (RUNNING,)).fetchall():
            self.interrupted(row["id"], now, crashed=False, words="the backend was stopped")

    # ---- the queue and the user

    def move(self, job: str, position: int) -> JobRecord:
        """Put a waiting job at this place among those of its client; InvalidInput when it waits no more."""
        with self._db.transaction(durable=True):
            row = self._row(job)
            if row["state"] != QUEUED:
                raise InvalidInput(f"job {job} is {row['state']}", "a job that waits", state=row["state"])
            self._waiting.move(job, row["client"], position)
        return self.get(job)

    def pause(self, paused: bool) -> None:
        """Begin no waiting job, or begin them again; survives a restart."""
        with self._db.transaction(durable=True):
            self._waiting.pause(paused)

    @property
    def paused(self) -> bool:
        """Whether no waiting job is begun."""
        return self._waiting.paused

    # ---- which stages are stored already

    def remember_stage(self, chain: str, key: str, now: float) -> None:
        """The stage of this chain (see reuse.py) has made the stored result `key`."""
        with self._db.transaction(durable=False):
            self._db.execute(
                "INSERT OR REPLACE INTO stage_results (chain, key, used) VALUES (?, ?, ?)", (chain, key, now)
            )

    def stage_result(self, chain: str) -> str:
        """Key of the stored result; empty when none was made."""
        row = self._db.execute("SELECT key FROM stage_results WHERE chain = ?", (chain,)).fetchone()
        return str(row["key"]) if row else ""

    # ---- tidying up

    def forget_old(self, now: float, quota_bytes: int = RESULTS_QUOTA_BYTES) -> list[str]:
        """Drop jobs that ended more than a week ago, and the oldest ones whose results are beyond the quota;
        returns their ids."""
        with self._db.transaction(durable=False):
            marks = ", ".join("?" * len(TERMINAL))
            rows = self._db.execute(
                f"SELECT id FROM jobs WHERE state IN ({marks}) AND finished < ?",
                (*TERMINAL, now - KEEP_SECONDS),
            ).fetchall()
            total = 0
            for row in self._db.execute(
                "SELECT id, sum(size) AS size FROM jobs JOIN results ON results.job = jobs.id"
                " WHERE finished >= ? GROUP BY id ORDER BY finished DESC, number DESC",
                (now - KEEP_SECONDS,),
            ).fetchall():
                total += row["size"]
                if total > quota_bytes:
                    rows.append(row)
            for row in rows:
                self._db.execute("DELETE FROM jobs WHERE id = ?", (row["id"],))
            self._db.execute("DELETE FROM stage_results WHERE used < ?", (now - KEEP_SECONDS,))
            self._db.execute("DELETE FROM turns WHERE client NOT IN (SELECT client FROM jobs)")
        for row in rows:
            self.heads.pop(row["id"], None)
        return [row["id"] for row in rows]

    # ---- questions

    def knows(self, job: str) -> bool:
        """Whether there is a job of this id."""
        return self._db.execute("SELECT 1 FROM jobs WHERE id = ?", (job,)).fetchone() is not None

    def get(self, job: str) -> JobRecord:
        """The record of one job; UnknownJob."""
        return self._record(self._row(job))

    def crashes(self, job: str) -> int:
        """How often a worker died of it; UnknownJob."""
        return int(self._row(job)["crashes"])

    def page(self, states: Sequence[str], limit: int, before: int) -> tuple[list[JobRecord], int]:
        """(records, the newest first; `before` of the next page, 0 on the last one)."""
        conditions, values = ["1"], []
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            values += states
        if before:
            conditions.append("number < ?")
            values.append(before)
        rows = self._db.execute(
            f"SELECT * FROM jobs WHERE {' AND '.join(conditions)} ORDER BY number DESC LIMIT ?",
            (*values, limit + 1),
        ).fetchall()
        more = len(rows) > limit
        rows = rows[:limit]
        return [self._record(row) for row in rows], rows[-1]["number"] if more else 0

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        rows = self._db.execute("SELECT state, count(*) AS n FROM jobs GROUP BY state")
        return dict.fromkeys(messages.STATES, 0) | {row["state"]: row["n"] for row in rows}

    def events(self, job: str, after: int, limit: int) -> list[Event]:
        """Stored events numbered above `after`, in order."""
        rows = self._db.execute(
            "SELECT event FROM events WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?", (job, after, limit)
        )
        return [messages.from_plain(Event, json.loads(row["event"])) for row in rows]

    def results(self, job: str, start: int, limit: int) -> tuple[list[ResultFile], int]:
        """(files from number `start`, how many there are); UnknownJob."""
        self._row(job)
        total = self._db.execute("SELECT count(*) FROM results WHERE job = ?", (job,)).fetchone()[0]
        rows = self._db.execute(
            "SELECT name, size, sha256 FROM results WHERE job = ? ORDER BY name LIMIT ? OFFSET ?",
            (job, limit, start),
        )
        return [ResultFile(**dict(row)) for row in rows], total

    def result_size(self, sha256: str) -> int:
        """Size of a result's content; UnknownJob when no job has it."""
        row = self._db.execute("SELECT size FROM results WHERE sha256 = ? LIMIT 1", (sha256,)).fetchone()
        if row is None:
            raise UnknownJob("no job has a result of this content", remedy="Ask for the job's manifest.")
        return int(row["size"])

    # ---- inside

    def _row(self, job: str) -> sqlite3.Row:
        row = self._db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
        if row is None:
            raise UnknownJob(
                f"job {job} is unknown here", remedy="List them: python -m backend jobs", job=job
            )
        return row

    def _record(self, row: sqlite3.Row) -> JobRecord:
        position = -1
        if row["state"] == QUEUED:
            position = self._waiting.position(row["client"], row["priority"], row["place"], row["number"])
        error = messages.from_plain(Failure, json.loads(row["error"])) if row["error"] else None
        return JobRecord(
            job=row["id"], state=row["state"], recipe=row["recipe"], quality=row["quality"],
            seed=row["seed"], options=json.loads(row["options"]), label=row["label"], client=row["client"],
            stage=row["stage"], index=row["stage_index"], stages=row["stages"],
            reused=tuple(json.loads(row["reused"])), position=position, attempts=row["attempts"],
            created=row["created"], started=row["started"], finished=row["finished"], seq=row["seq"],
            error=error, priority=row["priority"],
        )  # fmt: skip

    def _add_event(
        self,
        job: str,
        kind: str,
        state: str,
        now: float,
        stage: Event | None = None,
        *,
        text: str = "",
        error: Failure | None = None,
    ) -> None:
        """Number an event of a job and store it; the caller's transaction holds."""
        self._db.execute("UPDATE jobs SET seq = seq + 1 WHERE id = ?", (job,))
        seq = self._db.execute("SELECT seq FROM jobs WHERE id = ?", (job,)).fetchone()[0]
        self.heads[job] = seq
        self._may_be_queued |= state == QUEUED
        self._waiting.changed()
        fields: dict[str, Any] = {"job": job, "seq": seq, "kind": kind, "state": state, "time": now}
        if stage is not None:
            fields |= {
                "stage": stage.stage, "index": stage.index, "stages": stage.stages, "text": stage.text,
                "seconds": stage.seconds,
            }  # fmt: skip
        else:
            fields |= {"text": text, "error": messages.to_plain(error) if error else None}
        self._db.execute(
            "INSERT INTO events (job, seq, event) VALUES (?, ?, ?)", (job, seq, json.dumps(fields))
        )
