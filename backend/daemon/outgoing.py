"""What goes out by itself: events to subscribers and chunks to those who fetch, as fast as each one reads."""

import time
from dataclasses import dataclass

from backend.daemon.core import Core
from backend.daemon.transfers import Key
from backend.daemon.wire import Peer
from shared_protocol import messages as m
from shared_protocol.errors import LimitExceeded, OrreryError

EVENT_BATCH = 64
CHUNK_BATCH, TURN_SECONDS = 4, 0.003
"""Chunks of a transfer sent in a row, and for how long at most: small requests wait for no more."""
FULL_SECONDS = 0.05
"""Pause before more is offered to a client whose queue is full."""
MAX_SUBSCRIPTIONS = 256
"""Of one connection."""


@dataclass
class _Subscription:
    """sent, head: numbers of the last stored event that went out, and of the last there was at first;
    step: the last step event that went out; preview: number of the newest picture told of, -1: not wanted."""

    job: str
    sent: int
    head: int
    preview: int
    step: m.Event | None = None


class Outgoing:
    """Subscriptions, and the turn of the transfers."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._subscriptions: dict[Key, _Subscription] = {}
        self._full_until: dict[Peer, float] = {}

    def __len__(self) -> int:
        return len(self._subscriptions)

    def subscribe(self, key: Key, message: m.Subscribe, record: m.JobRecord) -> None:
        """Send events from now on, if there are more to come; LimitExceeded."""
        if record.state in m.TERMINAL and message.after >= record.seq:
            return
        if sum(other[0] == key[0] for other in self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise LimitExceeded("too many subscriptions", f"at most {MAX_SUBSCRIPTIONS} a connection")
        self._subscriptions[key] = _Subscription(
            message.job, max(message.after, 0), record.seq, 0 if message.previews else -1
        )

    def unsubscribe(self, key: Key) -> None:
        """Send no more of this subscription."""
        self._subscriptions.pop(key, None)

    def forget(self, peer: Peer) -> None:
        """The connection is gone."""
        self._full_until.pop(peer, None)
        for key in [key for key in self._subscriptions if key[0] == peer]:
            del self._subscriptions[key]

    def send(self) -> bool:
        """A few chunks of each transfer, and all new events; whether there may be more to send at once.

        Who does not read is left alone for a moment: trying again and again is work too.
        """
        now = time.monotonic()
        if self._full_until:
            self._full_until = {peer: until for peer, until in self._full_until.items() if until > now}
        sent = False
        for _ in range(CHUNK_BATCH):
            for key in self._core.transfers.sendable():
                if key[0] not in self._full_until:
                    sent |= self._send_chunk(key)
            if time.monotonic() - now > TURN_SECONDS:
                break
        for key in list(self._subscriptions):
            if key[0] not in self._full_until:
                self._send_events(key)
        return sent

    def _offer(self, key: Key, message: m.Message, buffer: memoryview | None = None) -> bool:
        peer, request = key
        sent = self._core.wire.offer(peer, message, request, buffer)
        if not sent:
            self._full_until[peer] = time.monotonic() + FULL_SECONDS
        return sent

    def _send_chunk(self, key: Key) -> bool:
        transfers = self._core.transfers
        try:
            chunk, data = transfers.next_chunk(key)
        except OrreryError as error:
            transfers.stop(key)
            self._core.wire.reply(key[0], m.ErrorReply(m.Failure.of(error)), key[1])
            return False
        if not self._offer(key, chunk, data):
            return False
        self._core.metrics.counters["chunks"] += 1
        transfers.sent(key, len(data), time.monotonic())
        return True

    def _send_events(self, key: Key) -> None:
        subscription = self._subscriptions.get(key)
        if subscription is None:
            return
        core, job = self._core, subscription.job
        behind = subscription.sent < core.store.heads.get(job, subscription.head)
        for event in core.store.events(job, subscription.sent, EVENT_BATCH) if behind else ():
            if not self._offer(key, event):
                return
            subscription.sent = event.seq
            if event.state in m.TERMINAL:
                self._subscriptions.pop(key, None)
                return
        step = core.dispatch.steps.get(job)
        if step is not None and step is not subscription.step and self._offer(key, step):
            subscription.step = step
        if subscription.preview >= 0:
            for name, number in core.previews.newest(job, subscription.preview):
                news = m.Event(
                    job, subscription.sent, "preview", m.RUNNING, time.time(), done=number, text=name
                )
                if not self._offer(key, news):
                    return
                subscription.preview = number
