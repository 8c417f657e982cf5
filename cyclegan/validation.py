"""Validation of CycleGAN over whole data sets: how well each cycle gives its image back, in HU of its own domain."""
from medi2i.common.training.distributed import ALONE
from medi2i.common.training.validation import ErrorSum, apply, batches


class CycleMeasure:
    """Measures x → y → x against x, and y → x → y against y, on all images of ``dataset_x`` and ``dataset_y``.

    A data set may be None. Called, it gives ``cycle_RMSE_x``, ``cycle_MAE_x`` (HU, or the unit of that domain's
    images), the same for y, and ``cycle_RMSE``, ``cycle_MAE``: the mean of both domains.
    Batches are shared out to ``ranks`` (medi2i.common.training.distributed) and their sums added in the order of one
    process, so the figures are its figures.
    """

    def __init__(self, dataset_x, dataset_y, networks, device, batch_size, ranks=ALONE):
        self.sides = {name: (dataset, cycle) for name, dataset, cycle in (
            ("x", dataset_x, lambda x: networks.translate_back(networks.translate(x))),
            ("y", dataset_y, lambda y: networks.translate(networks.translate_back(y)))) if dataset is not None}
        self.device = device
        self.batch_size = batch_size
        self.ranks = ranks

    @property
    def count(self):
        """How many images the larger domain has."""
        return max(len(dataset) for dataset, _ in self.sides.values())

    def __call__(self, indices=None):
        """The measures over the images ``indices`` of each domain that has them, by default all."""
        result = {}
        for name, (dataset, cycle) in self.sides.items():
            chosen = [i for i in (range(len(dataset)) if indices is None else indices) if i < len(dataset)]
            error = self._error(dataset, cycle, chosen)
            result[f"cycle_RMSE_{name}"], result[f"cycle_MAE_{name}"] = error.rmse, error.mae
        for kind in ("cycle_RMSE", "cycle_MAE"):
            result[kind] = sum(result[f"{kind}_{name}"] for name in self.sides) / len(self.sides)
        return result

    def _error(self, dataset, cycle, indices):
        def measure(batch):
            error = ErrorSum()
            images = [dataset.load(indices[i], None) for i in batch]
            error.add(dataset.clip.from_unit(apply(cycle, images, self.device)), dataset.clip.from_unit(images))
            return error

        total = ErrorSum()
        for error in self.ranks.spread(measure, batches(len(indices), self.batch_size)):
            total.merge(error)
        return total
