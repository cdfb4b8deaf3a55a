"""The order in which waiting jobs are begun: clients take turns, and within a client the higher priority,
then the place in its queue, which the user can change.

Used by the store inside its transactions.
"""

from dataclasses import dataclass

from backend.daemon.database import Database
from shared_protocol.errors import InvalidInput
from shared_protocol.messages import QUEUED


@dataclass(frozen=True)
class _Client:
    """One client with waiting jobs, in the order of the turns."""

    name: str
    waiting: int


class WaitingJobs:
    """The queue as rows of `jobs` in state `queued`."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._clients: list[_Client] | None = None
        self.paused = False
        """Whether none is begun."""
        self._undone()
        database.on_rollback = self._undone

    def _undone(self) -> None:
        self.paused = self._setting("paused") == "1"
        self.changed()

    def changed(self) -> None:
        """A job came into the queue or left it: what was remembered of it is old."""
        self._clients = None

    def clients(self) -> list[_Client]:
        """Those with waiting jobs, the one whose turn it is first."""
        if self._clients is None:
            rows = self._db.execute(
                "SELECT jobs.client, count(*) AS waiting FROM jobs LEFT JOIN turns USING (client)"
                " WHERE state = ? GROUP BY jobs.client ORDER BY coalesce(served, 0), min(number)",
                (QUEUED,),
            )
            self._clients = [_Client(row["client"], row["waiting"]) for row in rows]
        return self._clients

    def next(self) -> str | None:
        """Id of the job to begin now."""
        clients = self.clients()
        if self.paused or not clients:
            return None
        row = self._db.execute(
            "SELECT id FROM jobs WHERE state = ? AND client = ?"
            " ORDER BY priority DESC, place, number LIMIT 1",
            (QUEUED, clients[0].name),
        ).fetchone()
        return str(row["id"])

    def served(self, client: str) -> None:
        """A job of this client was begun: the others' turn comes first."""
        self._db.execute(
            "INSERT OR REPLACE INTO turns (client, served)"
            " VALUES (?, (SELECT coalesce(max(served), 0) + 1 FROM turns))",
            (client,),
        )
        self.changed()

    def goes_on(self, client: str) -> None:
        """A job of this client was interrupted: it is its turn again."""
        self._db.execute(
            "INSERT OR REPLACE INTO turns (client, served)"
            " VALUES (?, (SELECT coalesce(min(served), 0) - 1 FROM turns))",
            (client,),
        )
        self.changed()

    def position(self, client: str, priority: int, place: float, number: int) -> int:
        """How many jobs are begun before this one, as things stand."""
        own = self._db.execute(
            "SELECT count(*) FROM jobs WHERE state = ? AND client = ? AND (priority > ?"
            " OR (priority = ? AND (place < ? OR (place = ? AND number < ?))))",
            (QUEUED, client, priority, priority, place, place, number),
        ).fetchone()[0]
        before, theirs_first = own, True
        for other in self.clients():
            if other.name == client:
                theirs_first = False
            else:
                before += min(other.waiting, own + theirs_first)
        return int(before)

    def count(self, client: str) -> int:
        """Waiting jobs of one client."""
        return next((one.waiting for one in self.clients() if one.name == client), 0)

    def move(self, job: str, client: str, position: int) -> None:
        """Put a waiting job at this place among those of its client; it takes its neighbour's priority."""
        if position < 0:
            raise InvalidInput(f"position {position} does not exist", "0 (next) or more")
        others = self._db.execute(
            "SELECT priority, place FROM jobs WHERE state = ? AND client = ? AND id != ?"
            " ORDER BY priority DESC, place, number",
            (QUEUED, client, job),
        ).fetchall()
        position = min(position, len(others))
        before = others[position - 1] if position else None
        after = others[position] if position < len(others) else None
        if before is None and after is None:
            return
        if before is not None and after is not None and before["priority"] == after["priority"]:
            priority, place = before["priority"], (before["place"] + after["place"]) / 2
            if not before["place"] < place < after["place"]:  # no float is left in between
                self._spread(client)
                self.move(job, client, position)
                return
        elif after is not None:
            priority, place = after["priority"], after["place"] - 1
        else:
            assert before is not None
            priority, place = before["priority"], before["place"] + 1
        self._db.execute("UPDATE jobs SET priority = ?, place = ? WHERE id = ?", (priority, place, job))
        self.changed()

    def pause(self, paused: bool) -> None:
        """Begin none until told otherwise; survives a restart."""
        self._db.execute(
            "INSERT OR REPLACE INTO settings (name, value) VALUES ('paused', ?)", (str(int(paused)),)
        )
        self.paused = paused

    def _spread(self, client: str) -> None:
        rows = self._db.execute(
            "SELECT id FROM jobs WHERE state = ? AND client = ? ORDER BY priority DESC, place, number",
            (QUEUED, client),
        ).fetchall()
        for place, row in enumerate(rows):
            self._db.execute("UPDATE jobs SET place = ? WHERE id = ?", (float(place), row["id"]))

    def _setting(self, name: str) -> str:
        row = self._db.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return str(row["value"]) if row else ""
