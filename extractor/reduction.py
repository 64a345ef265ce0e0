"""Local descriptors reduced by a projection that is learnt from photos of the index: L2, PCA, L2.

Noh et al., "Large-scale image retrieval with attentive deep local features" (ICCV 2017), section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from extractor.features import LocalFeatures
from extractor.photo import Photo
from extractor.weights import WeightsError, load_state_dict
from extractor.whitening import Whitening

if TYPE_CHECKING:
    from extractor.extractor import LocalModel

SAMPLE = 300
"""Descriptors of one photo, the strongest, that a projection is learnt from."""


class ReducedLocal:
    """A local model whose descriptors are reduced.

    Args:
        model: gives descriptors of unit norm.
        dimension: components that are left.
        whiten: divide each component by its standard deviation.

    Attributes:
        projection: None until it is learnt.

    Raises:
        ValueError: there are not so many components.
    """

    def __init__(self, model: LocalModel, dimension: int, whiten: bool) -> None:
        if not 1 <= dimension <= model.dimension:
            raise ValueError(f"cannot reduce {model.dimension} components to {dimension}")
        self.model = model
        self.dimension = dimension
        self.whiten = whiten
        self.longest_side = model.longest_side
        self.identity = {**model.identity, "dimension": dimension, "whiten": whiten}
        self.projection: Whitening | None = None

    def samples(self, photo: Photo) -> NDArray[np.float32]:
        """Descriptors of a photo before reduction, float32 [n, model.dimension]."""
        return self.model.detect(photo).descriptors[:SAMPLE].astype(np.float32)

    def learn(self, samples: NDArray[np.float32]) -> None:
        """Fit the projection to descriptors float32 [N, model.dimension].

        Raises:
            ValueError: there are too few of them.
        """
        self.projection = Whitening.fit(samples, self.dimension, scaled=self.whiten)

    def to(self, device: str, dtype: str = "float32") -> Self:
        """Move the model; the projection is left on the processor."""
        self.model.to(device, dtype)
        return self

    def prepare(self, photo: Photo) -> Any:
        """What the model needs of a photo."""
        return self.model.prepare(photo)

    def detect(self, photo: Photo) -> LocalFeatures:
        """Local features of a photo, strongest first, keypoints in pixels of the original."""
        (features,) = self.run([self.prepare(photo)])
        return features

    def run(self, prepared: Sequence[Any]) -> list[LocalFeatures]:
        """Local features of each photo."""
        return [self._reduced(features) for features in self.model.run(prepared)]

    def _reduced(self, features: LocalFeatures) -> LocalFeatures:
        projection = self.projection
        if projection is None or projection.projection is None:
            raise RuntimeError("the projection of the local descriptors is not learnt yet")
        # In PyTorch, on this thread: NumPy's own threads could change the last bits.
        centred = torch.from_numpy(features.descriptors - projection.mean)
        reduced = functional.normalize(centred @ torch.from_numpy(projection.projection), dim=1)
        return replace(features, descriptors=reduced.numpy())


def published_projection(path: Path, dimension: int) -> Whitening | None:
    """The projection that came with an attention: `pca.mean` [D] and `pca.projection` [D, d].

    Args:
        path: the weights file of the attention.
        dimension: components that are left, the first.

    Returns:
        None if none came with it.

    Raises:
        WeightsError: it has not so many components.
    """
    state = load_state_dict(path)
    if "pca.projection" not in state:
        return None
    mean, projection = state["pca.mean"], state["pca.projection"]
    if dimension > projection.shape[1]:
        raise WeightsError(f"the projection of {path} has {projection.shape[1]} components, not {dimension}")
    return Whitening(mean.numpy(), np.ascontiguousarray(projection[:, :dimension].numpy()))
