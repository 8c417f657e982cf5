"""What each rank of a distributed training has of its own (random state, history pools), kept in the one snapshot.

Entries ``rank:<n>/…`` are those of rank n; ranks are counted from 0, and the first one's are where those of a training
alone are. ``ranks`` says how many there were.
"""
import re

import numpy

from medi2i.common.training.snapshot import Reader, Writer

_COUNT = "ranks"
_OWN = re.compile(r"((?:none:)?)rank:(\d+)/(.+)")


def collected(ranks, updater):
    """Pairs (name, array) of all ranks for the snapshot that the first one writes.

    The others hand theirs over meanwhile, array by array, so that the first never has to hold them all; they get ().
    """
    if ranks.first:
        return _pairs(ranks) if ranks.count > 1 else ()
    arrays = {}
    updater.serialize_own(Writer(arrays))
    ranks.send(arrays)
    return ()


def _pairs(ranks):
    yield _COUNT, numpy.asarray(ranks.count)
    for rank, name, array in ranks.incoming():
        mark = "none:" if name.startswith("none:") else ""
        yield f"{mark}rank:{rank}/{name.removeprefix(mark)}", array


def split(arrays):
    """(the dict ``arrays`` without what ranks have of their own, [the own of rank 1, of rank 2, …])."""
    count = int(arrays.get(_COUNT, 1))
    common, own = {}, [{} for _ in range(1, count)]
    for name, array in arrays.items():
        match = _OWN.fullmatch(name)
        if match is not None:
            own[int(match[2]) - 1][match[1] + match[3]] = array
        elif name != _COUNT:
            common[name] = array
    return common, own


def deal(ranks, found):
    """(path, arrays that all ranks share, own arrays of this rank or None, number of ranks that wrote them).

    found: on the first rank (path, arrays) of a snapshot, None elsewhere.
    """
    head = shares = None
    if ranks.first:
        path, arrays = found
        common, own = split(arrays)
        head = path, common, 1 + len(own)
        shares = [None, *own, *(None for _ in range(len(own) + 1, ranks.count))][:ranks.count]
    path, common, before = ranks.agreed(head)
    return path, common, ranks.dealt(shares), before


def take_up(ranks, updater, own, seed):
    """Give ``updater``, which has just been restored as the first rank's, what is this rank's own.

    own: None where no rank of this number wrote the snapshot: its random state begins anew, with empty pools.
    """
    if ranks.first:
        return
    if own is not None:
        updater.serialize_own(Reader(own))
        return
    updater.random.restart(seed, ranks.rank, updater.iteration)
    for pool in updater.pools.values():
        pool.images = []
