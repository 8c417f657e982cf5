"""Batch normalisation over the batches of all ranks together: ``--sync_bn``."""
from medi2i.common import compat
from medi2i.common.compat import chainer

_batch_normalization = chainer.functions.normalization.batch_normalization


class SharedBatches:
    """Called as (link, x): what the batch normalisation ``link`` gives in training for x (N, C, H, W) of this rank.

    Mean and variance are those of the whole batch, over all ranks, and so are their gradients (ChainerMN's multi-node
    batch normalisation). The running variance is corrected by the number of pixels of one rank.
    ranks: medi2i.common.training.distributed.Ranks, all of which must call it in the same order.
    """

    def __init__(self, ranks):
        self.ranks = ranks

    def __call__(self, link, x):
        multi_node = compat.chainermn.functions.batch_normalization
        communicator = self.ranks.communicator
        backend = multi_node.get_communication_backend(communicator)
        shape, dtype = link.avg_mean.shape, link.avg_mean.dtype
        gamma = link.xp.ones(shape, dtype) if link.gamma is None else link.gamma
        beta = link.xp.zeros(shape, dtype) if link.beta is None else link.beta
        function = _batch_normalization.BatchNormalization(
            link.eps, link.avg_mean, link.avg_var, link.decay,
            impl_selector=multi_node.MultiNodeBNImplSelector(communicator, backend))
        y, = function.apply((x, gamma, beta))
        if not chainer.config.in_recomputing:
            link.avg_mean[...] = function.running_mean
            link.avg_var[...] = function.running_var
        return y
