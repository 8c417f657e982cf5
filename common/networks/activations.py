"""The activations by their typed choice."""

from medi2i.common.compat import F
from medi2i.common.networks.spec import Activation

LEAKY_SLOPE = 0.2


def _leaky_relu(x):
    return F.leaky_relu(x, slope=LEAKY_SLOPE)


def _softmax(x):
    return F.softmax(x, axis=1)


def _identity(x):
    return x


_FUNCTIONS = {
    Activation.RELU: F.relu,
    Activation.LEAKY_RELU: _leaky_relu,
    Activation.TANH: F.tanh,
    Activation.SIGMOID: F.sigmoid,
    Activation.SOFTMAX: _softmax,
    Activation.NONE: _identity,
}


def activation(kind: Activation):
    """The function Variable → Variable of the same shape; leaky ReLU has slope 0.2, softmax runs along axis 1."""
    return _FUNCTIONS[kind]
