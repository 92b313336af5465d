"""Ranks that watch each other: one that is dead, frozen or stuck is named; one that is merely busy is left alone."""

from __future__ import annotations

import faulthandler
import os
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.process import progress
from trainer.process.progress import say

BEAT = 1.0  # seconds between two beats
GRACE = 5  # beats that a rank may miss once a collective has failed somewhere: then one is dead
ANSWER = 5  # beats that all ranks have to say where they are


class Watch:
    """A thread of each rank beats once a second in a store and reads what the others left there.

    Dead, frozen, cut off: a rank that has been silent for `limit_seconds`. Rank 0 watches all, the others rank 0 and
    the store; the first verdict, a compare-and-set, holds for all. Busy: a rank whose interpreter does not let its
    thread run, as in a long call of a library, still speaks to its watcher: faulthandler's own thread, which needs no
    interpreter, writes its stack into a socket between them. Stuck: `progress.ticks` of no rank has moved for
    `progress_seconds`; every rank then leaves its stacks in `stacks`, and says where it is.

    hosts: of all ranks. ended: is called with the verdict, in a thread, and should end the process.
    """

    def __init__(
        self, store: Any, rank: int, hosts: Sequence[str], limit_seconds: float, progress_seconds: float, stacks: Path,
        ended: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.store, self.rank, self.hosts = store, rank, list(hosts)
        self.limit, self.progress_limit, self.stacks, self.ended = limit_seconds, progress_seconds, stacks, ended
        self.word = ""  # what the others should know of this rank: "lost" in a collective, why it ended, or "done"
        self.told, self.wake, self.over = threading.Event(), threading.Event(), threading.Event()
        self._beats = self._unanswered = self._asked = 0
        self._heard: dict[int, tuple[str, int]] = {}  # rank -> its last beat, and how often that was read again
        self._alive: dict[int, float] = {}  # rank -> when its socket spoke last
        self._moved, self._since = -1, time.monotonic()
        self._alarm: socket.socket | None = None

    def start(self) -> None:
        """Called by all ranks together: from here on every key is there, as reading one that is not would wait."""
        if self.rank == 0:
            for key in ("verdict", "where"):
                self.store.set(key, "")
        self._connect()
        self.beat()
        self.store.set(f"at {self.rank}", "")
        while not all(self.store.check([f"beat {other}", f"at {other}"]) for other in range(len(self.hosts))):
            time.sleep(BEAT / 10)
        for target in (self._watch, self._watch_the_store):
            threading.Thread(target=target, daemon=True, name="heartbeat").start()

    def leave(self, word: str, wait: float = 2 * BEAT) -> None:
        """Tells the others why this rank beats no more."""
        self.word = word
        self.wake.set()
        self.told.wait(wait)

    def finish(self) -> None:
        """The end of the work. Rank 0, which may hold the store, waits for the others; they do not wait for it."""
        self.leave("done")
        while self.rank == 0 and not self.over.is_set():
            if all(value.endswith("|done") for value in self._beats_of(range(len(self.hosts)))):
                break
            time.sleep(BEAT / 10)
        self.close()

    def close(self) -> None:
        self.over.set()
        faulthandler.cancel_dump_traceback_later()

    # Beats ------------------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        self._beats += 1
        self.store.set(f"beat {self.rank}", f"{self._beats}|{progress.ticks}|{self.word}")
        if self._alarm is not None and not self.over.is_set():  # speaks if this thread does not come back in time
            faulthandler.dump_traceback_later(max(2 * BEAT, self.limit / 4), repeat=True, file=self._alarm)

    def _beats_of(self, ranks: Sequence[int]) -> list[str]:
        return [value.decode() for value in self.store.multi_get([f"beat {rank}" for rank in ranks])]

    def _watch(self) -> None:
        while not self.over.is_set() or (self.word and not self.told.is_set()):
            word = self.word
            try:
                self.beat()
                if word:
                    self.told.set()
                verdict = self._verdict()
            except RuntimeError:  # all errors of a store are
                verdict = f"{self._keeper()} is gone"
            self._unanswered = 0
            if verdict and not self.over.is_set():
                self.ended(verdict)
            self.wake.wait(BEAT)
            self.wake.clear()

    def _watch_the_store(self) -> None:
        while not self.over.wait(BEAT):
            self._unanswered += 1  # counted in beats of our own: a machine that slept has not missed any
            if self._unanswered * BEAT > self.limit and not self.over.is_set():
                self.ended(f"{self._keeper()} has not answered for {self.limit:g} s")

    def _keeper(self) -> str:
        """Who holds the store: the launcher on the first node under torchrun, else rank 0."""
        launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        return f"{'the launcher of ' if launcher else ''}{self.name(0)}"

    def name(self, rank: int) -> str:
        return f"rank {rank} (host {self.hosts[rank]})"

    def _verdict(self) -> str:
        """What the ranks agreed on, or this one finds now; '' as long as all is well."""
        if self.word == "done":
            return ""
        peers = range(1, len(self.hosts)) if self.rank == 0 else range(min(2, self.rank))
        verdict, where = (value.decode() for value in self.store.multi_get(["verdict", "where"]))
        if verdict:
            return verdict
        if where and not self._asked:
            self._say_where()
        values = self._beats_of(peers)
        lost = self.word == "lost" or any(value.endswith("|lost") for value in values)
        silent = {}
        for peer, value in zip(peers, values, strict=True):
            last, missed = self._heard.get(peer, ("", 0))
            self._heard[peer] = value, missed + 1 if value == last else 0
            word = value.split("|", 2)[2]
            if word == "done":
                continue
            if word not in ("", "lost"):
                return self._agree(f"{self.name(peer)} was {word}")
            if self._heard[peer][1] > (GRACE if lost else self.limit / BEAT) and not self._speaks(peer):
                silent[peer] = f"{self.name(peer)} has not answered for {self._heard[peer][1] * BEAT:.0f} s"
        if silent and (self.rank < 2 or len(silent) == 2):  # rank 1 hears whether rank 0 is busy, the others do not
            return self._agree(silent[min(silent)])
        return self._stuck([f"{self._beats}|{progress.ticks}|", *values]) if self.rank == 0 else ""

    def _agree(self, found: str) -> str:
        return str(self.store.compare_set("verdict", "", found).decode())

    # Stuck ------------------------------------------------------------------------------------------------------------

    def _stuck(self, values: Sequence[str]) -> str:
        """Of rank 0: nothing has moved for too long. Asks all where they are, and some beats later tells it."""
        moved = sum(int(value.split("|", 2)[1]) for value in values)
        if moved != self._moved:
            self._moved, self._since = moved, time.monotonic()
        still = time.monotonic() - self._since
        if still <= self.progress_limit:
            return ""
        if not self._asked:
            self.store.set("where", "?")
            self._say_where()
        self._asked += 1
        if self._asked <= ANSWER:
            return ""
        places = [value.decode() for value in self.store.multi_get([f"at {rank}" for rank in range(len(self.hosts))])]
        counted = Counter(places)
        rarest = min(counted, key=lambda place: counted[place])
        who = ", ".join(self.name(rank) for rank, place in enumerate(places) if place == rarest)
        others = counted.most_common(1)[0][0]
        rest = f", the others in {others}" if len(counted) > 1 else ""
        where = f"{who} is in {rarest}{rest}; stacks are in {self.stacks}"
        return self._agree(f"nothing has moved for {still:.0f} s: {where}")

    def _say_where(self) -> None:
        self._asked = self._asked or 1
        self.stacks.mkdir(parents=True, exist_ok=True)
        with open(self.stacks / f"rank{self.rank:05}.txt", "w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        name = Path(frame.f_code.co_filename).name if frame else ""
        place = f"{frame.f_code.co_name} ({name}:{frame.f_lineno})" if frame else "C code"
        self.store.set(f"at {self.rank}", place)

    # Sockets that speak for a busy interpreter ------------------------------------------------------------------------

    def _connect(self) -> None:
        """Rank 0 listens, all others connect to it; between rank 0 and 1 both ends speak. Without it nobody is busy."""
        try:
            if self.rank == 0:
                server = socket.create_server(("", 0))
                self.store.set("ear", str(server.getsockname()[1]))
                threading.Thread(target=self._accept, args=(server,), daemon=True, name="ear").start()
                return
            address = os.environ.get("MASTER_ADDR", "127.0.0.1"), int(self.store.get("ear"))
            self._alarm = socket.create_connection(address, timeout=10)
            self._alarm.settimeout(None)
            self._alarm.sendall(f"{self.rank}\n".encode())
            if self.rank == 1:
                threading.Thread(target=self._listen, args=(self._alarm, 0), daemon=True, name="ear").start()
        except (OSError, RuntimeError):
            self._alarm = None

    def _accept(self, server: socket.socket) -> None:
        while True:
            other, _ = server.accept()
            threading.Thread(target=self._listen, args=(other, None), daemon=True, name="ear").start()

    def _listen(self, other: socket.socket, peer: int | None) -> None:
        if peer is None:
            hello = other.makefile("rb", buffering=0).readline()
            if not hello.strip().isdigit():
                return
            peer = int(hello)
            if peer == 1 and self._alarm is None:
                self._alarm = other
        try:
            while other.recv(65536):
                if time.monotonic() - self._alive.get(peer, -1e9) > self.limit:
                    say(f"{self.name(peer)} is busy: one call holds its interpreter")
                self._alive[peer] = time.monotonic()
        except OSError:
            return

    def _speaks(self, peer: int) -> bool:
        """Whether a silent rank has been heard on its socket within the limit."""
        return time.monotonic() - self._alive.get(peer, -1e9) < self.limit
