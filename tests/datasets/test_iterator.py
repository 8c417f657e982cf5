import time

import numpy as np
import pytest

from medi2i.common.compat import chainer
from medi2i.common.errors import UserError
from medi2i.datasets.iterator import IdleTime, ImageIterator


class Numbers:
    """Examples are (index, a random number of their generator)."""

    def __init__(self, length, delay=0.0, broken=()):
        self.length = length
        self.delay = delay
        self.broken = broken

    def __len__(self):
        return self.length

    def load(self, index, rng):
        time.sleep(self.delay * (index % 3))
        if index in self.broken:
            raise UserError(f"{index}: broken")
        return index, None if rng is None else float(rng.random())


def take(iterator, batches):
    try:
        return [iterator.next() for _ in range(batches)]
    finally:
        iterator.finalize()


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_same_batches_for_any_number_of_workers(batch_size):
    runs = [take(ImageIterator(Numbers(7, 0.001), batch_size, 5, workers=workers), 12) for workers in (0, 1, 2, 5)]
    assert runs[0] == runs[1] == runs[2] == runs[3]


def test_an_epoch_holds_every_example_once_in_an_order_of_its_own():
    examples = [example for batch in take(ImageIterator(Numbers(40), 8, 1, workers=2), 15) for example in batch]
    orders = [[index for index, _ in examples[start : start + 40]] for start in (0, 40, 80)]
    assert [sorted(order) for order in orders] == [list(range(40))] * 3
    assert orders[0] != orders[1] != orders[2] and orders[0] != sorted(orders[0])
    assert len({number for _, number in examples}) == 120


def test_another_seed_gives_other_orders_and_other_draws():
    one, two = (take(ImageIterator(Numbers(40), 40, seed), 1)[0] for seed in (1, 2))
    assert [index for index, _ in one] != [index for index, _ in two]
    assert not {number for _, number in one} & {number for _, number in two}


def test_epochs_are_counted_as_the_trainer_needs():
    iterator = ImageIterator(Numbers(5), 2, 0)
    assert (iterator.epoch, iterator.epoch_detail, iterator.previous_epoch_detail) == (0, 0.0, None)
    seen = []
    for _ in range(5):
        iterator.next()
        seen.append((iterator.epoch, iterator.is_new_epoch, iterator.previous_epoch_detail))
    assert seen == [(0, False, 0.0), (0, False, 0.4), (1, True, 0.8), (1, False, 1.2), (2, True, 1.6)]
    assert iterator.epoch_detail == 2.0


def test_several_crops_of_each_example_make_an_epoch_of_the_same_draws():
    once, thrice = ImageIterator(Numbers(5), 3, 0), ImageIterator(Numbers(5), 3, 0, crops=3)
    assert [once.next() for _ in range(10)] == [thrice.next() for _ in range(10)]
    assert (once.epoch, thrice.epoch) == (6, 2)
    assert thrice.is_new_epoch and thrice.epoch_detail == 2.0
    epoch = take(ImageIterator(Numbers(5), 3, 0, crops=3), 5)
    assert sorted(index for batch in epoch for index, _ in batch) == sorted(list(range(5)) * 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size,ranks", [(1, 2), (2, 3), (5, 2)])
def test_ranks_together_draw_what_one_process_with_the_joined_batch_does(batch_size, ranks, workers):
    """7 examples, so that epochs end within a batch; also after a resume on another number of ranks."""
    whole = ImageIterator(Numbers(7), batch_size * ranks, 5)
    dealt = [ImageIterator(Numbers(7), batch_size, 5, workers=workers, rank=rank, ranks=ranks) for rank in range(ranks)]
    for _ in range(6):
        batches = [iterator.next() for iterator in dealt]
        assert [len(batch) for batch in batches] == [batch_size] * ranks
        assert [example for batch in batches for example in batch] == whole.next()
        for iterator in dealt:
            assert (iterator.epoch, iterator.is_new_epoch, iterator.epoch_detail, iterator.previous_epoch_detail) == (
                whole.epoch,
                whole.is_new_epoch,
                whole.epoch_detail,
                whole.previous_epoch_detail,
            )
            assert iterator.examples_per_update == whole.examples_per_update == batch_size * ranks
    state = {}
    dealt[-1].serialize(chainer.serializers.DictionarySerializer(state))
    alone = ImageIterator(Numbers(7), 3, 5)
    alone.serialize(chainer.serializers.NpzDeserializer(state))
    assert alone.next() == ImageIterator(Numbers(7), batch_size * ranks * 6 + 3, 5).next()[-3:]
    for iterator in dealt:
        iterator.finalize()


@pytest.mark.parametrize("done", [1, 3, 4, 7])
@pytest.mark.parametrize("workers", [(0, 2), (3, 0), (2, 1)])
def test_resume_continues_exactly(tmp_path, done, workers):
    whole = take(ImageIterator(Numbers(5), 2, 9), done + 6)
    first = ImageIterator(Numbers(5), 2, 9, workers=workers[0])
    for _ in range(done):
        first.next()
    chainer.serializers.save_npz(tmp_path / "state.npz", first)
    first.finalize()
    with np.load(tmp_path / "state.npz", allow_pickle=False) as state:
        assert all(state[name].dtype != object for name in state.files)
    second = ImageIterator(Numbers(5), 2, 1, workers=workers[1])  # the seed, too, comes from the state
    second.next()
    chainer.serializers.load_npz(tmp_path / "state.npz", second)
    attributes = ("epoch", "epoch_detail", "previous_epoch_detail", "is_new_epoch")
    assert [getattr(second, name) for name in attributes] == [getattr(first, name) for name in attributes]
    assert take(second, 6) == whole[done:]


def test_resume_with_other_data_is_refused(tmp_path):
    chainer.serializers.save_npz(tmp_path / "state.npz", ImageIterator(Numbers(5), 2))
    with pytest.raises(UserError, match="5 examples, now there are 6"):
        chainer.serializers.load_npz(tmp_path / "state.npz", ImageIterator(Numbers(6), 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_loading_reach_the_caller_and_nothing_is_lost(workers):
    first, second = take(ImageIterator(Numbers(6), 2), 2)
    broken = second[1][0]
    dataset = Numbers(6, broken={broken})
    iterator = ImageIterator(dataset, 2, workers=workers)
    assert iterator.next() == first
    with pytest.raises(UserError, match=f"{broken}: broken"):
        iterator.next()
    dataset.broken = ()
    assert iterator.next() == second
    iterator.finalize()


def test_batch_larger_than_the_data():
    indices = [index for index, _ in take(ImageIterator(Numbers(3), 7, workers=2), 1)[0]]
    assert len(indices) == 7 and sorted(indices[:3]) == sorted(indices[3:6]) == [0, 1, 2]


def test_idle_time_is_what_the_caller_waited_after_its_first_batch():
    idle = IdleTime()
    assert idle.fraction == 0.0
    for asked, got in ((0.0, 5.0), (9.0, 10.0), (14.0, 15.0)):
        idle.add(asked, got)
    assert (idle.waited, idle.seconds, idle.batches) == (2.0, 10.0, 2)
    assert idle.fraction == 0.2


def test_workers_hide_the_loading_behind_the_callers_work():
    iterator = ImageIterator(Numbers(30, 0.008), 1, workers=2)
    for _ in range(25):
        iterator.next()
        time.sleep(0.01)
    fraction = iterator.idle.fraction
    iterator.finalize()
    assert fraction < 0.25  # loading takes 8 ms on average, the work 10: one after the other would be 0.44
