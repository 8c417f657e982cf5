"""The history pool: the discriminator also sees what the generator made some time ago (Shrivastava et al., 2017)."""
import numpy

from medi2i.common.compat import chainer


class HistoryPool:
    """The last images in random order, up to ``size`` of them, on the device on which they were made.

    Args:
        size: number of images kept; 0 keeps none and gives every batch back as it is.
        random: :class:`medi2i.common.training.randomness.RandomState`.
    """

    def __init__(self, size, random):
        self.size = size
        self.random = random
        self.images = []

    def __len__(self):
        return len(self.images)

    def query(self, batch):
        """A batch (N, C, H, W) for the discriminator, given the batch (N, C, H, W) that was just made.

        While the pool is not full every image is kept and given back. Once it is full, with probability 1/2 an old one
        comes back and the new one takes its place; otherwise the new one comes back and is not kept.
        """
        return chainer.backend.get_array_module(batch).stack([self._exchange(image) for image in batch])

    def _exchange(self, image):
        if len(self.images) < self.size:
            self.images.append(image.copy())
        elif self.size and self.random.coin():
            place = self.random.integer(self.size)
            image, self.images[place] = self.images[place], image.copy()
        return image

    def sample(self, count):
        """``count`` different images of the pool as a batch; ValueError where it has fewer."""
        if count > len(self.images):
            raise ValueError(f"{count} images asked of a pool that holds {len(self.images)}")
        chosen = [self.images[i] for i in self.random.choice(len(self.images), count)]
        return chainer.backend.get_array_module(chosen[0]).stack(chosen)

    def serialize(self, serializer):
        """Save or restore the images through a Chainer serializer, as one array (count, C, H, W)."""
        count = serializer("count", len(self.images))
        if isinstance(serializer, chainer.Serializer):
            if count:
                serializer("images", chainer.backend.get_array_module(self.images[0]).stack(self.images))
            return
        if count > self.size:
            raise ValueError(f"the saved pool holds {count} images; this one has room for {self.size}")
        stored = numpy.asarray(serializer("images", None)) if count else ()
        self.images = [self.random.xp.asarray(image) for image in stored]
