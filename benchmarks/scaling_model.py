"""What an update costs on many GPUs: a closed formula, and a simulation of every step of every all-reduce.

An update is a list of stages. ``Compute`` is work of a rank by itself; ``Ring`` is one all-reduce of gradients (one an
optimizer: ChainerMN packs the gradients of its network into one buffer, after the backward pass and not during it, so
nothing overlaps); ``Tree`` is the small all-reduce of running statistics, between the hosts.

Times in seconds, sizes in bytes, bandwidths in bytes per second and direction.
"""

import heapq
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Link:
    """A way from one GPU to the next. ``step``: latency of one step of a ring; ``host_step``: of one between hosts."""

    bandwidth: float
    step: float
    host_step: float


@dataclass(frozen=True)
class Cluster:
    """``node`` GPUs of a machine are joined by ``inside``, machines by ``between``. ``launch``: to start an all-reduce.

    In the ring of N GPUs each machine is entered once.
    """

    name: str
    between: Link
    inside: Link
    node: int = 1
    launch: float = 8.4e-6

    def crosses(self, ranks: int) -> int:
        """How many of the ``ranks`` links of the ring lead from one machine to another."""
        return 0 if ranks <= self.node else math.ceil(ranks / self.node)

    def slowest(self, ranks: int) -> Link:
        """The Link with the least bandwidth in the ring."""
        if not self.crosses(ranks):
            return self.inside
        return self.between if self.node == 1 else min(self.between, self.inside, key=lambda link: link.bandwidth)

    def outgoing(self, ranks: int) -> tuple[np.ndarray, np.ndarray]:
        """(latency, bandwidth): two arrays, of the link from each rank to the next."""
        across = np.array([(rank + 1) % self.node == 0 or rank == ranks - 1 for rank in range(ranks)])
        if not self.crosses(ranks):
            across[:] = False
        return (
            np.where(across, self.between.step, self.inside.step),
            np.where(across, self.between.bandwidth, self.inside.bandwidth),
        )


@dataclass(frozen=True)
class Compute:
    """``seconds`` of one rank's own work."""

    seconds: float


@dataclass(frozen=True)
class Ring:
    """An all-reduce of ``size`` bytes of gradients, of the network ``name``."""

    name: str
    size: int


@dataclass(frozen=True)
class Tree:
    """An all-reduce of ``size`` bytes between hosts, in log2 N steps; ``copies`` seconds go to and from the GPU."""

    size: int
    copies: float


Stage = Compute | Ring | Tree
Stages = Sequence[Stage]


@dataclass(frozen=True)
class Jitter:
    """Ranks are not equally fast: compute times are multiplied by a log-normal factor of median 1 and ``spread`` (sd of
    its logarithm), and with the probability ``stalls`` a rank loses ``stall`` times its time of the whole update once
    more (a slow read, a busy machine)."""

    spread: float
    stalls: float
    stall: float


def compute_time(stages: Stages) -> float:
    """Seconds of an update on one rank that is alone: no all-reduce, no statistics."""
    return sum(stage.seconds for stage in stages if isinstance(stage, Compute))


def ring_time(size: float, ranks: int, cluster: Cluster) -> float:
    """Seconds of one all-reduce of ``size`` bytes in a ring of ``ranks``: launch + latency of the steps + transfer.

    2 (N - 1) steps, of which two for each machine go over the network where a machine has several GPUs (as NCCL's own
    estimate has it), and 2 (N - 1) / N of the bytes over the slowest link.
    """
    if ranks == 1:
        return 0.0
    steps, machines = 2 * (ranks - 1), cluster.crosses(ranks)
    network = min(2 * machines, steps)
    latency = network * cluster.between.step + (steps - network) * cluster.inside.step
    return cluster.launch + latency + steps / ranks * size / cluster.slowest(ranks).bandwidth


def tree_time(stage: Tree, ranks: int, cluster: Cluster) -> float:
    """Seconds of the statistics' all-reduce: the copies, and log2 N exchanges of all of it."""
    if ranks == 1:
        return 0.0
    link = cluster.between if cluster.crosses(ranks) else cluster.inside
    return stage.copies + math.ceil(math.log2(ranks)) * (link.host_step + stage.size / link.bandwidth)


def update_time(stages: Stages, ranks: int, cluster: Cluster) -> float:
    """Seconds of an update by the formula, all ranks equally fast."""
    return compute_time(stages) + sum(
        ring_time(stage.size, ranks, cluster) if isinstance(stage, Ring) else tree_time(stage, ranks, cluster)
        for stage in stages
        if not isinstance(stage, Compute)
    )


def efficiency(seconds: float, stages: Stages) -> float:
    """How much of the time is work that one rank alone has, too: the speed-up divided by the number of ranks."""
    return compute_time(stages) / seconds


def simulate(
    stages: Stages,
    ranks: int,
    cluster: Cluster,
    jitter: Jitter | None = None,
    *,
    updates: int = 10,
    repeats: int = 4,
    seed: int = 0,
) -> tuple[float, float]:
    """Mean seconds of an update, simulated: (over all, standard error of that over the repeats).

    ``repeats`` trainings of ``updates`` updates each, independent of each other. A rank begins a step of a ring when it
    has what the last step brought; a link carries one piece after the other; the next stage begins on a rank when its
    own all-reduce is done, so ranks need not be in step. Without jitter one update of one training says all.
    """
    if jitter is None:
        updates = repeats = 1
    random = np.random.default_rng(seed)
    clock = np.zeros((repeats, ranks))
    whole = compute_time(stages)
    for _ in range(updates):
        lost = 0.0 if jitter is None else (random.random(clock.shape) < jitter.stalls) * jitter.stall * whole
        clock = clock + lost
        for stage in stages:
            clock = (
                clock + _own(stage, clock.shape, jitter, random)
                if isinstance(stage, Compute)
                else (_ring(clock, stage, cluster) if isinstance(stage, Ring) else _tree(clock, stage, cluster))
            )
    each = clock.max(axis=1) / updates
    return float(each.mean()), float(each.std(ddof=1) / math.sqrt(repeats)) if repeats > 1 else 0.0


def _own(
    stage: Compute, shape: tuple[int, ...], jitter: Jitter | None, random: np.random.Generator
) -> np.ndarray | float:
    if jitter is None:
        return stage.seconds
    return stage.seconds * np.exp(jitter.spread * random.standard_normal(shape))


def _ring(clock: np.ndarray, stage: Ring, cluster: Cluster) -> np.ndarray:
    """Every step of the ring. clock: (repeats, ranks), when each rank is ready. Returns when each is done."""
    ranks = clock.shape[1]
    if ranks == 1:
        return clock
    latency, bandwidth = cluster.outgoing(ranks)
    busy = stage.size / ranks / bandwidth  # a link, with one piece
    ready = clock + cluster.launch
    free = np.full_like(ready, -np.inf)  # when the link out of a rank has carried what came before
    for _ in range(2 * (ranks - 1)):
        sent = np.maximum(ready, free) + busy
        free = sent
        # Nothing arrives before its sender sends it, and nothing can be added to before the rank itself is ready.
        ready = np.maximum(ready, np.roll(sent + latency, 1, axis=1))
    return ready


def _tree(clock: np.ndarray, stage: Tree, cluster: Cluster) -> np.ndarray:
    """Exchanges with ranks 1, 2, 4, ... further on; every rank has heard of all after ceil(log2 N)."""
    ranks = clock.shape[1]
    if ranks == 1:
        return clock
    link = cluster.between if cluster.crosses(ranks) else cluster.inside
    ready = clock + stage.copies
    for distance in (2**k for k in range(math.ceil(math.log2(ranks)))):
        ready = np.maximum(ready, np.roll(ready, distance, axis=1)) + link.host_step + stage.size / link.bandwidth
    return ready


def ring_by_events(start: Sequence[float], size: float, cluster: Cluster) -> list[float]:
    """When each rank has finished an all-reduce that it was ready for at ``start`` (list): with a queue of events.

    The same ring as in ``simulate``, told one message at a time: slow, plain, and there to check it.
    """
    ranks = len(start)
    latency, bandwidth = cluster.outgoing(ranks)
    busy = size / ranks / bandwidth
    done, free, received = [time + cluster.launch for time in start], [-math.inf] * ranks, [0] * ranks
    order = itertools.count()
    events = [(time, next(order), rank, 0) for rank, time in enumerate(done)]  # this rank may send its step's piece
    heapq.heapify(events)
    waiting = {}  # (rank, step): when its piece arrived, before the rank could go on
    while events:
        time, _, rank, step = heapq.heappop(events)
        free[rank] = max(time, free[rank]) + busy[rank]
        target, arrival = (rank + 1) % ranks, free[rank] + latency[rank]
        waiting[target, step] = arrival
        while (target, received[target]) in waiting:
            arrived = waiting.pop((target, received[target]))
            received[target] += 1
            done[target] = max(done[target], arrived)
            if received[target] < 2 * (ranks - 1):
                heapq.heappush(events, (done[target], next(order), target, received[target]))
    return done
