"""The SQLite file below the job store: its tables, its transactions, and what a full disk means."""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from backend.daemon.status import disk_free
from shared_protocol.errors import AccessDenied, DiskFull, Unsupported

MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        client TEXT NOT NULL,
        state TEXT NOT NULL,
        recipe TEXT NOT NULL,
        quality TEXT NOT NULL,
        seed INTEGER NOT NULL,
        options TEXT NOT NULL,
        inputs TEXT NOT NULL,
        label TEXT NOT NULL,
        content TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL NOT NULL DEFAULT 0,
        finished REAL NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        crashes INTEGER NOT NULL DEFAULT 0,
        interruptions INTEGER NOT NULL DEFAULT 0,
        cancelling INTEGER NOT NULL DEFAULT 0,
        seq INTEGER NOT NULL DEFAULT 0,
        stage TEXT NOT NULL DEFAULT '',
        stage_index INTEGER NOT NULL DEFAULT 0,
        stages INTEGER NOT NULL DEFAULT 0,
        reused TEXT NOT NULL DEFAULT '[]',
        error TEXT
    );
    CREATE INDEX jobs_by_state ON jobs (state, number);
    CREATE TABLE events (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        seq INTEGER NOT NULL,
        event TEXT NOT NULL,
        PRIMARY KEY (job, seq)
    ) WITHOUT ROWID;
    CREATE TABLE results (
        job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (job, name)
    ) WITHOUT ROWID;
    CREATE INDEX results_by_content ON results (sha256);
    """,
    # place: order within a client's queue, its number until the user moves it. turns: when a client's job was
    # last begun. stage_results: which stored result a stage with these inputs and options made.
    """
    ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE jobs ADD COLUMN place REAL NOT NULL DEFAULT 0;
    UPDATE jobs SET place = number;
    CREATE INDEX jobs_in_queue ON jobs (state, client, priority DESC, place, number);
    CREATE TABLE turns (client TEXT PRIMARY KEY, served INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE stage_results (
        chain TEXT PRIMARY KEY,
        key TEXT NOT NULL,
        used REAL NOT NULL
    ) WITHOUT ROWID;
    """,
)


class Database:
    """An open file with all migrations applied. Used by one thread.

    AccessDenied when the file cannot be used, Unsupported when a newer version wrote it.
    """

    def __init__(self, path: Path) -> None:
        self.on_rollback: Callable[[], None] = lambda: None
        """Called after a transaction was undone: what was remembered of the tables may be wrong."""
        self._folder = path.parent
        try:
            self.connection = sqlite3.connect(path, isolation_level=None)
            self.connection.row_factory = sqlite3.Row
            with contextlib.ExitStack() as undo:
                undo.callback(self.connection.close)
                self.execute("PRAGMA journal_mode = WAL")
                self.execute("PRAGMA busy_timeout = 5000")
                self.execute("PRAGMA foreign_keys = ON")
                self._migrate()
                undo.pop_all()
        except sqlite3.Error as error:
            raise AccessDenied(
                f"the job store {path} cannot be used ({error})",
                remedy="Move it away, or choose another folder with --state.",
            ) from error

    def execute(self, statement: str, values: object = ()) -> sqlite3.Cursor:
        """As sqlite3's."""
        return self.connection.execute(statement, values)  # type: ignore[arg-type]

    def close(self) -> None:
        """Fold the write-ahead log in and let go of the file."""
        self.connection.close()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool) -> Iterator[None]:
        """All or nothing. durable: on the disk when this returns; else after a crash of the system it may
        be gone, never after one of the daemon. DiskFull leaves the file as it was."""
        self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        try:
            self.execute("BEGIN IMMEDIATE")
            yield
            self.execute("COMMIT")
        except BaseException as error:
            if self.connection.in_transaction:
                self.execute("ROLLBACK")
            self.on_rollback()
            if isinstance(error, sqlite3.OperationalError) and _disk_is_full(error):
                free = disk_free(self._folder)
                raise DiskFull(
                    f"no space is left for the backend's job store ({free / 2**20:.0f} MiB are free)",
                    remedy="Free some space and try again.",
                    free_bytes=free,
                ) from error
            raise

    def _migrate(self) -> None:
        version = self.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise Unsupported(
                "the job store was written by a newer version of the backend",
                remedy="Update this one, or choose another folder with --state.",
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self.connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")


def _disk_is_full(error: sqlite3.OperationalError) -> bool:
    # A failed write of the log reports an I/O error, not a full disk, on some systems.
    return error.sqlite_errorcode in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
