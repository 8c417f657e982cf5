"""Dropout that can also be drawn at test time (Gal and Ghahramani, 2016)."""
import contextlib

from medi2i.common.compat import F, chainer


@contextlib.contextmanager
def sampled_dropout():
    """Context in which networks in test mode drop out as in training; all else stays in test mode. For one thread."""
    with chainer.using_config("medi2i_sampled_dropout", True):
        yield


def drop_out(x, ratio):
    """``F.dropout``: while training, and within ``sampled_dropout``."""
    if not getattr(chainer.config, "medi2i_sampled_dropout", False):
        return F.dropout(x, ratio=ratio)
    with chainer.using_config("train", True):
        return F.dropout(x, ratio=ratio)
