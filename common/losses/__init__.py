"""Loss terms as pure functions: arrays or Variables in, one float32 scalar Variable out.

Images are (N, C, H, W) in [-1, 1] unless a function says otherwise. Weights of terms, reporting and random draws belong
to the updaters. Half-precision values are cast to float32 first: a mean over an image overflows float16.
"""

from medi2i.common.losses.adversarial import (
    gradient_penalty,
    hinge,
    least_squares,
    logistic,
    mean_answer,
    sigmoid_weighted_least_squares,
    squared_slope,
    tanh_weighted_least_squares,
    wasserstein,
    weight_magnitude,
)
from medi2i.common.losses.reconstruction import (
    air_mismatch,
    channel_weight,
    class_mismatch,
    class_probabilities,
    dice,
    focal_cross_entropy,
    fold_stack,
    gaussian_divergence,
    mean_absolute,
    mean_square,
    mean_squared,
    unfold_stack,
)
from medi2i.common.losses.similarity import (
    feature_distance,
    multiscale_dissimilarity,
    perceptual,
    structural_dissimilarity,
)
from medi2i.common.losses.smoothness import (
    TV_METHODS,
    channel_variation,
    gradient_consistency,
    gradient_difference,
    total_variation,
)

__all__ = [
    "TV_METHODS",
    "air_mismatch",
    "channel_variation",
    "channel_weight",
    "class_mismatch",
    "class_probabilities",
    "dice",
    "feature_distance",
    "focal_cross_entropy",
    "fold_stack",
    "gaussian_divergence",
    "gradient_consistency",
    "gradient_difference",
    "gradient_penalty",
    "hinge",
    "least_squares",
    "logistic",
    "mean_absolute",
    "mean_answer",
    "mean_square",
    "mean_squared",
    "multiscale_dissimilarity",
    "perceptual",
    "sigmoid_weighted_least_squares",
    "squared_slope",
    "structural_dissimilarity",
    "tanh_weighted_least_squares",
    "total_variation",
    "unfold_stack",
    "wasserstein",
    "weight_magnitude",
]
