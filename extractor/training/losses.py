"""What the local heads of DELF and DELG are trained with."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def attentive_pool(features: Tensor, scores: Tensor) -> Tensor:
    """One vector of a map: the mean over all places of their features weighted by attention.

    A softmax over classes of this vector teaches attention which places tell landmarks apart (Noh et al.,
    "Large-scale image retrieval with attentive deep local features", ICCV 2017, section 4.2). As in the code
    published with DELG, features are first brought to one norm, so that attention alone weighs them, and the
    sum is divided by the number of places, so that it does not grow with the map. The norm here is the square
    root of C, so that components are about 1 and a classifier learns at the usual rates.

    Args:
        features: float [B, C, h, w].
        scores: float [B, h, w], not negative.

    Returns:
        float [B, C].
    """
    even = features.shape[1] ** 0.5 * functional.normalize(features, dim=1)
    return (even * scores[:, None]).mean((2, 3))


def reconstruction_loss(rebuilt: Tensor, features: Tensor) -> Tensor:
    """Mean squared error, over all components of all places, of an autoencoder's output.

    Cao et al., "Unifying deep local and global features for image search" (ECCV 2020), section 3.3.
    """
    return functional.mse_loss(rebuilt.float(), features.float())
