"""What the parts of the daemon share: one object that the loop makes and hands on."""

import logging
from dataclasses import dataclass, field

from backend.daemon.auth import Sessions
from backend.daemon.config import DaemonConfig
from backend.daemon.dispatch import Dispatch
from backend.daemon.joblog import JobLogs
from backend.daemon.metrics import Metrics
from backend.daemon.pool import Pool
from backend.daemon.previews import Previews
from backend.daemon.same_host import SameHostProof
from backend.daemon.store import JobStore
from backend.daemon.transfers import Transfers
from backend.daemon.wire import Wire
from backend.pipeline.artifacts import ArtifactStore


@dataclass
class Core:
    """The daemon's parts. boot: id of this run; started: monotonic seconds; stopping: no new work."""

    config: DaemonConfig
    boot: str
    started: float
    log: logging.Logger
    store: JobStore
    artifacts: ArtifactStore
    transfers: Transfers
    sessions: Sessions
    wire: Wire
    pool: Pool
    dispatch: Dispatch
    job_logs: JobLogs
    previews: Previews
    proof: SameHostProof
    metrics: Metrics = field(default_factory=Metrics)
    stopping: bool = False

    @property
    def recipes(self) -> dict[str, tuple[str, ...]]:
        """Recipes that can be submitted, with their stages."""
        return dict(self.config.recipes)
