"""The batched verification on a GPU: the same method as the compiled one, over many pairs at once, in torch.

Similarities of int8 components are exact, so the putative matches are the same as on the CPU; the inliers
differ where rounding decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from extractor.features import INT8_UNIT, LocalFeatures
from ranking.verification.batched.homography import (
    BENT,
    LARGEST_SQUEEZE,
    LARGEST_TURN,
    LARGEST_ZOOM,
    MINIMAL,
    NARROWING,
    PULL,
    REFINED,
)
from ranking.verification.frame import Frame
from ranking.verification.verification import SAMPLE, Verification

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ranking.verification.batched.verifier import BatchedVerifier

_CHUNKS = 16
"""Chunks of similarities whose models are fitted together."""


@dataclass(frozen=True, eq=False)
class Verifications:
    """The results of P pairs, in arrays.

    Attributes:
        putatives: int64 [P].
        significance: float64 [P].
        models: float64 [P, 3, 3], in pixels.
        starts: int64 [P + 1], where the matches of each pair begin and end.
        matches: int32 [inliers of all pairs, 2].
    """

    putatives: NDArray[np.int64]
    significance: NDArray[np.float64]
    models: NDArray[np.float64]
    starts: NDArray[np.int64]
    matches: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.putatives)

    def __getitem__(self, pair: int) -> Verification:
        """The result of one pair."""
        matches = self.matches[self.starts[pair] : self.starts[pair + 1]]
        if not len(matches):
            return Verification.none(int(self.putatives[pair]))
        significance = float(self.significance[pair])
        return Verification(int(self.putatives[pair]), matches, self.models[pair], significance)


class DevicePhotos:
    """Features of photos in a device's memory: 80 KB for 1000 features of 64 components."""

    def __init__(self, photos: Sequence[LocalFeatures], device: str) -> None:
        """Copy them there.

        Args:
            photos: features with descriptors of one length; float32 descriptors are quantised to int8.
            device: of torch: `cuda`, `cuda:1`, `cpu`.
        """
        import torch

        counts = [len(photo) for photo in photos]
        width = max([1, *counts])
        descriptors = np.zeros((len(photos), width, photos[0].dimension if photos else 1), np.int8)
        points = np.zeros((len(photos), width, 2))
        units = np.tile(np.eye(3), (len(photos), 1, 1))
        areas = np.ones(len(photos))
        for place, photo in enumerate(photos):
            if not len(photo):
                continue
            frame = Frame.of(photo.keypoints)
            n = len(photo)
            descriptors[place, :n] = photo.quantised().descriptors
            # The first of equals wins, so copies of the last never match.
            descriptors[place, n:] = descriptors[place, n - 1]
            points[place, :n] = (photo.keypoints - frame.low) / frame.extent
            units[place], areas[place] = frame.to_unit, frame.area
        self.device = torch.device(device)
        self.counts = torch.tensor(counts, device=self.device)
        self.descriptors = torch.from_numpy(descriptors).to(self.device)
        self.points = torch.from_numpy(points).to(self.device)
        self.units = torch.from_numpy(units).to(self.device)
        self.areas = torch.from_numpy(areas).to(self.device)


def verify_pairs(
    photos: DevicePhotos, pairs: NDArray[np.integer[Any]], settings: BatchedVerifier
) -> Verifications:
    """Verify many pairs of photos at once.

    Args:
        photos: features of n photos.
        pairs: int [P, 2], numbers of the query's and the candidate's photo.
        settings: the parameters of the method.
    """
    import torch

    first, second = torch.from_numpy(np.asarray(pairs, np.int64).reshape(-1, 2).T.copy()).to(photos.device)
    width = photos.descriptors.shape[1]
    step = max(_budget(photos.device) // (4 * width * width), 1)
    parts = []
    for start in range(0, len(first), _CHUNKS * step):
        chosen = slice(start, start + _CHUNKS * step)
        parts.append(_Batch(photos, first[chosen], second[chosen], settings).result(step))
    if not parts:
        return Verifications(
            np.zeros(0, np.int64),
            np.zeros(0),
            np.zeros((0, 3, 3)),
            np.zeros(1, np.int64),
            np.zeros((0, 2), np.int32),
        )
    putatives, significance, models, inliers, matches = (
        np.concatenate(arrays) for arrays in zip(*parts, strict=True)
    )
    starts = np.concatenate([[0], np.cumsum(inliers)])
    return Verifications(putatives, significance, models, starts, matches.astype(np.int32))


def _budget(device: torch.device) -> int:
    """Bytes that one large array may take; some twenty exist at a time."""
    import torch

    return torch.cuda.mem_get_info(device)[0] // 32 if device.type == "cuda" else 2**26


class _Batch:
    """Pairs whose models are fitted together."""

    def __init__(
        self, photos: DevicePhotos, first: Tensor, second: Tensor, settings: BatchedVerifier
    ) -> None:
        self.photos, self.first, self.second, self.settings = photos, first, second, settings
        self.size = 2 * SAMPLE[settings.model]

    def result(self, step: int) -> tuple[NDArray[Any], ...]:
        """Putatives, significance, models and inliers of each pair, and all matches.

        Args:
            step: pairs whose similarities exist at a time.
        """
        import torch

        total = len(self.first)
        chunks = [self._matches(slice(start, start + step)) for start in range(0, total, step)]
        ours, theirs, counts = (torch.cat(arrays) for arrays in zip(*chunks, strict=True))
        models = torch.eye(3, dtype=torch.float64, device=counts.device).repeat(total, 1, 1)
        significance = torch.zeros(total, dtype=torch.float64, device=counts.device)
        inlier = torch.zeros_like(ours, dtype=torch.bool)
        order = torch.argsort(counts, stable=True)
        order = order[counts[order] >= MINIMAL]
        hypotheses = max(self.settings.best_matches * (self.settings.best_matches - 1) // 2, 1)
        while len(order):
            # Those with the most matches, as many as fit, and none with less than half of the longest.
            longest = int(counts[order[-1]])
            fit = max(_budget(counts.device) // (4 * longest * hypotheses), 1)
            fit = min(fit, int((2 * counts[order] >= longest).sum()))
            chosen, order = order[-fit:], order[:-fit]
            found, agrees, evidence = self._models(
                chosen, ours[chosen, :longest].long(), theirs[chosen, :longest].long(), counts[chosen]
            )
            models[chosen], inlier[chosen, :longest], significance[chosen] = found, agrees, evidence
        matches = torch.stack([ours[inlier], theirs[inlier]], 1)
        arrays = (counts, significance, models, inlier.sum(1), matches)
        return tuple(array.cpu().numpy() for array in arrays)

    def _matches(self, pairs: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Mutual nearest neighbours, most similar first: int32 [B, N] numbers on both sides, counts [B]."""
        import torch

        photos, first, second = self.photos, self.first[pairs], self.second[pairs]
        here = photos.descriptors[first].float()
        there = photos.descriptors[second].float()
        with _whole_numbers():
            similarity = here @ there.transpose(1, 2)
        # Of equals torch gives the first.
        value, nearest = similarity.max(2)
        back = similarity.max(1).indices
        number = torch.arange(value.shape[1], device=value.device)
        mutual = back.gather(1, nearest) == number
        mutual &= value > self.settings.minimum_similarity * INT8_UNIT**2
        mutual &= (photos.counts[first][:, None] > 0) & (photos.counts[second][:, None] > 0)
        if self.settings.ratio is not None:
            similarity.scatter_(2, nearest[:, :, None], -math.inf)
            similarity.masked_fill_((number >= photos.counts[second][:, None])[:, None, :], -math.inf)
            runner_up = similarity.max(2).values
            unit = INT8_UNIT**2
            mutual &= (unit - value < self.settings.ratio**2 * (unit - runner_up)) | runner_up.isneginf()
        # Ties in the order of the candidate's features, as in `ranking.matching`.
        key = torch.where(mutual, value.long() * 2**32 - nearest, torch.iinfo(torch.int64).min)
        ours = key.argsort(dim=1, descending=True, stable=True)
        return ours.int(), nearest.gather(1, ours).int(), mutual.sum(1)

    def _models(
        self, chosen: Tensor, ours: Tensor, theirs: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Models in pixels [B, 3, 3], inliers [B, P] and significance [B] of pairs with P matches at most."""
        import torch

        first, second = self.first[chosen], self.second[chosen]
        forward, ahead, evidence = self._fit(first, second, ours, theirs, counts)
        backward, behind, other = self._fit(second, first, theirs, ours, counts)
        turned = other > evidence
        models = torch.where(turned[:, None, None], torch.linalg.inv(backward), forward)
        evidence = torch.where(turned, other, evidence)
        return (
            models,
            torch.where(turned[:, None], behind, ahead),
            evidence.masked_fill(evidence.isneginf(), 0.0),
        )

    def _fit(
        self, start: Tensor, end: Tensor, ours: Tensor, theirs: Tensor, counts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Models from one photo to the other, as `_models` gives them; without one, -inf of significance."""
        import torch

        photos = self.photos
        source = photos.points[start[:, None], ours]
        target = photos.points[end[:, None], theirs]
        valid = torch.arange(ours.shape[1], device=ours.device) < counts[:, None]
        scene = _Scene(source, target, valid, self.settings.threshold)
        models, alive = _hypotheses(scene, self.settings.best_matches)
        models, count = _refine(scene, models, alive, min(self.size, 6))
        error = scene.tolerance(models)
        if self.size == 8:
            models, count, error = _bend(scene, models, count)
        # Of equals torch gives the first.
        best = count.argmax(1)[:, None]
        alive = count.gather(1, best) > 0
        model = models.gather(1, best[:, :, None].expand(-1, 1, 8))
        inlier = scene.inliers(model, error.gather(1, best)) & alive[:, :, None]
        enough = inlier.sum(2) >= MINIMAL
        inlier = (inlier & enough[:, :, None])[:, 0]
        found = torch.cat([model[:, 0], torch.ones_like(model[:, 0, :1])], 1).reshape(-1, 3, 3)
        smaller = found[:, 0, 0] * found[:, 1, 1] - found[:, 0, 1] * found[:, 1, 0] < 1
        points = torch.where(smaller[:, None, None], target, source)
        area = torch.where(smaller, photos.areas[end], photos.areas[start])
        chance = _chance(points, inlier, self.settings.threshold, area)
        evidence = _significance(counts, inlier.sum(1), SAMPLE[self.settings.model], chance)
        known = enough[:, 0]
        pixels = torch.linalg.inv(photos.units[end]) @ found @ photos.units[start]
        eye = torch.eye(3, dtype=pixels.dtype, device=pixels.device)
        return (
            torch.where(known[:, None, None], pixels, eye),
            inlier,
            torch.where(known, evidence, torch.full_like(evidence, -torch.inf)),
        )


class _Scene:
    """The putative matches of B pairs, P at most each, in units of the photos' frames."""

    def __init__(self, source: Tensor, target: Tensor, valid: Tensor, threshold: float) -> None:
        import torch

        self.source, self.target, self.valid, self.threshold = source, target, valid, threshold
        x, y, u, v = source[..., 0], source[..., 1], target[..., 0], target[..., 1]
        one = torch.ones_like(x)
        self.ahead = torch.stack([x, y, one], 1)
        self.across, self.down = torch.stack([x, y, one, -u], 1), torch.stack([x, y, one, -v], 1)
        linear = torch.stack([one, x, y, u, v, x * x, x * y, y * y, u * x, u * y, v * x, v * y], 2)
        self.linear = linear * valid[..., None]
        r = u * u + v * v
        xx, xy, yy = x * x, x * y, y * y
        products = [*(xx, xy, yy), *(w * z for w in (u, v) for z in (one, x, y, xx, xy, yy))]
        products += [r * z for z in (x, y, xx, xy, yy)]
        self.projective = torch.stack([one, x, y, *products], 2) * valid[..., None]

    def tolerance(self, models: Tensor) -> Tensor:
        """The threshold in the target of models [..., 8]."""
        area = models[..., 0] * models[..., 4] - models[..., 1] * models[..., 3]
        return self.threshold * area.abs().sqrt().clamp(min=1.0)

    def near(self, models: Tensor, widen: float) -> Tensor:
        """Which matches [B, K, P] agree with affinities [B, K, 8], in the precision of the models."""
        import torch

        one = torch.ones_like(models[..., :1])
        limit = (widen * self.tolerance(models)) ** 2
        error = (torch.cat([models[..., 0:3], one], 2) @ self.across.to(models.dtype)).square_()
        error += (torch.cat([models[..., 3:6], one], 2) @ self.down.to(models.dtype)).square_()
        return (error < limit[..., None]) & self.valid[:, None]

    def inliers(self, models: Tensor, error: Tensor) -> Tensor:
        """Which matches [B, K, P] homographies [B, K, 8] map to within some distance [B, K]."""
        depth = models[..., 6:8] @ self.ahead[:, :2] + 1.0
        dx = models[..., 0:3] @ self.ahead / depth - self.target[:, None, :, 0]
        dy = models[..., 3:6] @ self.ahead / depth - self.target[:, None, :, 1]
        return (dx * dx + dy * dy < (error**2)[..., None]) & (depth > 0.2) & self.valid[:, None]


def _hypotheses(scene: _Scene, best_matches: int) -> tuple[Tensor, Tensor]:
    """Similarities through two of the best matches: the most promising [B, K, 8], and which of them count."""
    import torch

    source, target = scene.source, scene.target
    most = min(best_matches, source.shape[1])
    j, i = torch.tril_indices(most, most, -1, device=source.device)
    a, b = source[:, j] - source[:, i], target[:, j] - target[:, i]
    length, image = (a * a).sum(2), (b * b).sum(2)
    shortest = (3.0 * scene.threshold) ** 2
    sound = (length >= shortest) & (image >= shortest) & scene.valid[:, j]
    sound &= (length / LARGEST_ZOOM**2 < image) & (image < length * LARGEST_ZOOM**2)
    length = length.clamp(min=1e-12)
    cosine, sine = (a * b).sum(2) / length, (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]) / length
    sound &= cosine >= LARGEST_TURN * (image / length).sqrt()
    models = torch.zeros(*cosine.shape, 8, dtype=source.dtype, device=source.device)
    x, y = source[:, i, 0], source[:, i, 1]
    models[..., 0], models[..., 1], models[..., 3], models[..., 4] = cosine, -sine, sine, cosine
    models[..., 2] = target[:, i, 0] - cosine * x + sine * y
    models[..., 5] = target[:, i, 1] - sine * x - cosine * y
    agrees = scene.near(models.float(), NARROWING[0])
    count = agrees.sum(2) * sound
    # Sets of matches are told apart by the sum of a scrambled number for each.
    generator = torch.Generator().manual_seed(0)
    scrambled = torch.rand(source.shape[1], generator=generator, dtype=torch.float64).to(source.device)
    signature = (agrees * scrambled).sum(2).where(sound, -1.0)
    order = signature.argsort(dim=1, stable=True)
    ordered = signature.gather(1, order)
    again = torch.zeros_like(sound)
    again.scatter_(1, order[:, 1:], ordered[:, 1:] == ordered[:, :-1])
    count = count.masked_fill(again | (count < MINIMAL), 0)
    count, number = count.sort(dim=1, descending=True, stable=True)
    models = models.gather(1, number[:, :REFINED, None].expand(-1, -1, 8))
    return models, count[:, :REFINED] > 0


def _refine(scene: _Scene, models: Tensor, alive: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Similarities (size 4) or affinities (6) by local optimisation, and their counts: 0 where none holds."""
    agrees = scene.near(models, NARROWING[0])
    for widen in NARROWING:
        models, determined = _fit_linear(scene, agrees, size)
        alive = alive & determined & _plausible(models)
        agrees = scene.near(models, widen)
        alive = alive & (agrees.sum(2) >= MINIMAL)
    return models, agrees.sum(2) * alive


def _fit_linear(scene: _Scene, agrees: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As `homography.fit_linear`: models [B, K, 8], and whether the points determine them."""
    import torch

    sums = agrees.to(scene.linear.dtype) @ scene.linear
    w, wx, wy, wu, wv, wxx, wxy, wyy, wux, wuy, wvx, wvy = sums.unbind(2)
    w = w.clamp(min=1.0)
    xx, xy, yy = wxx - wx * wx / w, wxy - wx * wy / w, wyy - wy * wy / w
    ux, uy, vx, vy = wux - wu * wx / w, wuy - wu * wy / w, wvx - wv * wx / w, wvy - wv * wy / w
    spread = xx + yy
    determined = spread >= 1e-12
    spread = spread.clamp(min=1e-12)
    cosine, sine = (ux + vy) / spread, (vx - uy) / spread
    a, b, c, d = cosine, -sine, sine, cosine
    if size == 6:
        xx, yy = xx + PULL, yy + PULL
        ux, uy = ux + PULL * cosine, uy - PULL * sine
        vx, vy = vx + PULL * sine, vy + PULL * cosine
        determinant = xx * yy - xy * xy
        a, b = (ux * yy - uy * xy) / determinant, (uy * xx - ux * xy) / determinant
        c, d = (vx * yy - vy * xy) / determinant, (vy * xx - vx * xy) / determinant
    e, f = (wu - a * wx - b * wy) / w, (wv - c * wx - d * wy) / w
    nought = torch.zeros_like(a)
    return torch.stack([a, b, e, c, d, f, nought, nought], 2), determined


def _plausible(models: Tensor) -> Tensor:
    """As `homography.plausible`, for affinities."""
    a, b, c, d = models[..., 0], models[..., 1], models[..., 3], models[..., 4]
    return _plausible_map(a, b, c, d)


def _plausible_map(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    area = a * d - b * c
    squares = a * a + b * b + c * c + d * d
    return (
        (area > 1 / LARGEST_ZOOM**2)
        & (area < LARGEST_ZOOM**2)
        & (squares <= (LARGEST_SQUEEZE + 1 / LARGEST_SQUEEZE) * area)
    )


def _bend(scene: _Scene, models: Tensor, count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The affinities with most matches, as homographies where that gains some.

    Returns:
        Models [B, K, 8], how many matches agree with each, and within which distance.
    """
    import torch

    count, order = count.sort(dim=1, descending=True, stable=True)
    count, models = count[:, :BENT], models.gather(1, order[:, :BENT, None].expand(-1, -1, 8))
    error = scene.tolerance(models)
    bent, sound = models, count >= 2 * MINIMAL
    for widen in NARROWING:
        agrees = scene.inliers(bent, widen * error)
        sound &= agrees.sum(2) >= 2 * MINIMAL
        bent = torch.where(sound[..., None], _fit_homography(scene, agrees & sound[..., None], bent), bent)
    agrees = scene.inliers(bent, error)
    ahead = scene.ahead
    depth = bent[..., 6:8] @ ahead[:, :2] + 1.0
    u, v = bent[..., 0:3] @ ahead / depth, bent[..., 3:6] @ ahead / depth
    g, h = bent[..., 6, None], bent[..., 7, None]
    plausible = _plausible_map(
        (bent[..., 0, None] - u * g) / depth,
        (bent[..., 1, None] - u * h) / depth,
        (bent[..., 3, None] - v * g) / depth,
        (bent[..., 4, None] - v * h) / depth,
    )
    gains = agrees.sum(2)
    better = sound & (gains > count) & (plausible | ~agrees).all(2)
    return torch.where(better[..., None], bent, models), gains.where(better, count), error


def _fit_homography(scene: _Scene, agrees: Tensor, models: Tensor) -> Tensor:
    """As `homography.fit_homography`; NaN where the points do not determine one."""
    import torch

    depth = (models[..., 6:8] @ scene.ahead[:, :2] + 1.0).clamp(min=0.1)
    sums = (agrees.to(depth.dtype) / (depth * depth)) @ scene.projective
    w, x, y, xx, xy, yy, *rest = sums.unbind(2)
    (u, ux, uy, uxx, uxy, uyy), (v, vx, vy, vxx, vxy, vyy) = rest[:6], rest[6:12]
    rx, ry, rxx, rxy, ryy = rest[12:]
    o = torch.zeros_like(w)
    rows = [
        [xx + PULL, xy, x, o, o, o, -uxx, -uxy],
        [xy, yy + PULL, y, o, o, o, -uxy, -uyy],
        [x, y, w, o, o, o, -ux, -uy],
        [o, o, o, xx + PULL, xy, x, -vxx, -vxy],
        [o, o, o, xy, yy + PULL, y, -vxy, -vyy],
        [o, o, o, x, y, w, -vx, -vy],
        [-uxx, -uxy, -ux, -vxx, -vxy, -vx, rxx + 1e-3, rxy],
        [-uxy, -uyy, -uy, -vxy, -vyy, -vy, rxy, ryy + 1e-3],
    ]
    normal = torch.stack([torch.stack(row, 2) for row in rows], 2)
    pull = PULL * models
    right = torch.stack(
        [
            *(ux + pull[..., 0], uy + pull[..., 1], u),
            *(vx + pull[..., 3], vy + pull[..., 4], v),
            *(-rx, -ry),
        ],
        2,
    )
    found, failed = torch.linalg.solve_ex(normal, right)
    return torch.where((failed != 0)[..., None], torch.nan, found)


def _chance(points: Tensor, inlier: Tensor, threshold: float, area: Tensor) -> Tensor:
    """As `significance.chance_of_agreement`: [B]."""
    import torch

    disc = (math.pi * threshold**2 / area).clamp(max=1.0)
    weight = inlier.to(points.dtype)[..., None]
    n = weight.sum(1).clamp(min=1)
    around = (points - ((points * weight).sum(1) / n)[:, None]) * weight
    xx, yy = ((around**2).sum(1) / n).unbind(1)
    xy = (around[..., 0] * around[..., 1]).sum(1) / n[:, 0]
    middle, reach = (xx + yy) / 2, torch.hypot((xx - yy) / 2, xy)
    length, width = (12 * (middle + reach)).sqrt(), (12 * (middle - reach).clamp(min=0)).sqrt()
    line = (2 * threshold / length.clamp(min=threshold)).clamp(max=1.0)
    share = (2 - width / (2 * threshold)).clamp(0, 1)
    return torch.maximum(disc, disc ** (1 - share) * line**share)


def _significance(putatives: Tensor, inliers: Tensor, sample: int, chance: Tensor) -> Tensor:
    """As `significance.significance`: [B]."""
    import torch

    n, k = putatives.to(chance.dtype), inliers.to(chance.dtype).clamp(min=sample)

    def log_choose(n: Tensor, k: Tensor) -> Tensor:
        return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)

    needed = torch.full_like(k, sample)
    alarms = n.log() + log_choose(n, k) + log_choose(k, needed) + (k - needed) * chance.log()
    return -alarms / math.log(10)


@contextmanager
def _whole_numbers() -> Iterator[None]:
    """Within it, products of float32 may use TF32: it holds components up to 2047 and their sums exactly."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
