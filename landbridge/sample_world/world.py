"""The sample world: landmarks, look-alikes, other buildings, and every photo of them, with its truth."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .building import KINDS, SIDES, Building, direction
from .camera import Camera
from .light import LIGHTS, Light
from .render import render
from .scene import Scene, surroundings
from .visibility import visibility

Role = Literal["index", "query"]

Progress = Callable[[int, int], None]
"""Is told how many photos are done, and of how many."""

EASY_SHARE = 0.25
"""A face is sufficiently visible in a photo if this share of the building's visible pixels shows it."""

JUNK_COVER = 0.04
JUNK_VISIBLE = 0.4
"""A photo is junk if the building fills less of it, or if less of the building in view is unhidden."""


@dataclass(frozen=True)
class Photo:
    """A photo of the sample world and the truth about it.

    Attributes:
        image_id: name without extension; tells nothing about what the photo shows.
        role: `index` or `query`.
        subject: name of the pictured building.
        landmark: the same name if the building is a landmark, None otherwise.
        azimuth: degrees from which the building is seen: 0 is its front, 90 its right side.
        distance: metres from the camera to the building's centre.
        camera: position, direction and focal length.
        light: the light it is taken in.
        crowd: 0 (few people and trees) to 1 (the view is largely blocked).
        faces: share of the building's visible pixels that shows each of `SIDES`; only sides in view.
        cover: share of the photo's pixels that shows the building.
        visible: share of the building's pixels in view that nothing hides.
    """

    image_id: str
    role: Role
    subject: str
    landmark: str | None
    azimuth: float
    distance: float
    camera: Camera = field(repr=False)
    light: Light = field(repr=False)
    crowd: float
    faces: Mapping[str, float] = field(hash=False)
    cover: float
    visible: float

    @property
    def junk(self) -> bool:
        """Whether the building is too small or too hidden to judge."""
        return self.cover < JUNK_COVER or self.visible < JUNK_VISIBLE

    def shared(self, other: Photo) -> float:
        """How well both photos show one and the same face: the smaller share, for the best such face."""
        if self.subject != other.subject:
            return 0.0
        return max(
            (min(share, other.faces.get(side, 0.0)) for side, share in self.faces.items()), default=0.0
        )


class _Request(NamedTuple):
    """A photo to be taken: in which role, of which building, and from where in degrees."""

    role: Role
    subject: str
    of_landmark: bool
    azimuth: float


class SampleWorld:
    """A seeded world of landmarks that takes its own photos.

    Every landmark is a solid building with a different face on every side; its photos are taken from all
    around, so that the front and the back are joined only by the photos in between.

    Args:
        seed: the same seed and numbers make the same world, byte for byte.
        landmarks: number of landmarks.
        photos_per_landmark: index photos of each, at azimuths spread evenly around it.
        lookalikes: number of buildings that have the style and the volumes of a landmark, and other details.
        photos_per_lookalike: index photos of each, from where the landmark's queries are taken.
        distractors: index photos of buildings that are nobody's landmark, each of its own.
        queries_per_landmark: query photos of each landmark, each taken close to face-on from another side.
        queries_without_match: query photos of buildings that no index photo shows.
        size: (width, height) of the photos in pixels.

    Raises:
        ValueError: a number is negative, or a size is less than 64 pixels.
    """

    def __init__(
        self,
        seed: int = 0,
        landmarks: int = 8,
        photos_per_landmark: int = 16,
        lookalikes: int = 4,
        photos_per_lookalike: int = 3,
        distractors: int = 40,
        queries_per_landmark: int = 2,
        queries_without_match: int = 4,
        size: tuple[int, int] = (640, 480),
    ) -> None:
        counts = {
            "seed": seed,
            "landmarks": landmarks,
            "photos_per_landmark": photos_per_landmark,
            "lookalikes": lookalikes,
            "photos_per_lookalike": photos_per_lookalike,
            "distractors": distractors,
            "queries_per_landmark": queries_per_landmark,
            "queries_without_match": queries_without_match,
        }
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name} must not be negative, got {count}")
        if lookalikes and not landmarks:
            raise ValueError("look-alikes need landmarks to look like: set landmarks or lookalikes=0")
        if min(size) < 64:
            raise ValueError(f"size must be at least 64 x 64 pixels, got {size[0]} x {size[1]}")
        self.seed = seed
        self.size = size
        self.buildings: dict[str, Building] = {}
        self._numbers: dict[str, int] = {}
        self._plan(counts)

    def _plan(self, counts: Mapping[str, int]) -> None:
        rng = np.random.default_rng([self.seed, 1])
        kinds = rng.permutation(list(KINDS)).tolist()
        self._requests: list[_Request] = []
        sides: list[list[float]] = []
        models: list[tuple[str, int]] = []
        for number in range(counts["landmarks"]):
            kind = str(kinds[number % len(kinds)])
            models.append((kind, int(rng.integers(2**31))))
            name = f"{kind.replace(' ', '-')}-{number:02d}"
            self.buildings[name] = Building(*models[-1], int(rng.integers(2**31)))
            start, step = rng.uniform(0, 360), 360 / max(counts["photos_per_landmark"], 1)
            for index in range(counts["photos_per_landmark"]):
                azimuth = start + step * (index + rng.uniform(-0.3, 0.3))
                self._requests.append(_Request("index", name, True, azimuth))
            faced = rng.permutation(4)
            sides.append([90.0 * faced[index % 4] for index in range(max(counts["queries_per_landmark"], 1))])
            for side in sides[-1][: counts["queries_per_landmark"]]:
                self._requests.append(_Request("query", name, True, side + rng.uniform(-14, 14)))
        for number in range(counts["lookalikes"]):
            model = number % counts["landmarks"]
            name = f"lookalike-{number:02d}"
            self.buildings[name] = Building(*models[model], int(rng.integers(2**31)))
            for index in range(counts["photos_per_lookalike"]):
                side = sides[model][index % len(sides[model])]
                self._requests.append(_Request("index", name, False, side + rng.uniform(-25, 25)))
        roles: list[Role] = ["index"] * counts["distractors"]
        roles += ["query"] * counts["queries_without_match"]
        for number, role in enumerate(roles):
            name = f"distractor-{number:03d}"
            kind, style_seed, own_seed = str(rng.choice(kinds)), rng.integers(2**31), rng.integers(2**31)
            self.buildings[name] = Building(kind, int(style_seed), int(own_seed), density=20)
            self._requests.append(_Request(role, name, False, rng.uniform(0, 360)))

    @cached_property
    def photos(self) -> list[Photo]:
        """Every photo with its truth, in the order of the image ids."""
        rng = np.random.default_rng([self.seed, 2])
        codes = rng.choice(16**6, len(self._requests), replace=False)
        photos = []
        for number, (code, request) in enumerate(zip(codes.tolist(), self._requests, strict=True)):
            photo = self._photo(number, f"w{self.seed}_{code:06x}", request)
            self._numbers[photo.image_id] = number
            photos.append(photo)
        return sorted(photos, key=lambda photo: photo.image_id)

    def _photo(self, number: int, image_id: str, request: _Request) -> Photo:
        rng = np.random.default_rng([self.seed, 3, number])
        building = self.buildings[request.subject]
        query = request.role == "query"
        often = [0.5, 0.25, 0.15, 0.1] if query else [0.4, 0.25, 0.2, 0.15]
        light = Light.random(rng, str(rng.choice(LIGHTS, p=often)))
        fill = rng.uniform(0.8, 1.0) if query else rng.uniform(0.55, 1.05)
        crowd = rng.uniform(0, 0.15) if query else rng.uniform(0, 0.7)
        if not query:
            fate = rng.random()
            if fate < 0.03:
                fill = rng.uniform(0.16, 0.24)
            elif fate < 0.08:
                crowd = rng.uniform(2, 4)
            elif fate < 0.2:
                fill = rng.uniform(1.1, 1.5)
        camera = self._camera(rng, building, request.azimuth, rng.uniform(1, 1.4 if query else 2.5), fill)
        distance = float(np.hypot(*camera.position[:2]))
        faces, cover, visible = self._truth(self._scene(number, building, camera, light, crowd), distance)
        return Photo(
            image_id=image_id,
            role=request.role,
            subject=request.subject,
            landmark=request.subject if request.of_landmark else None,
            azimuth=float(request.azimuth % 360),
            distance=distance,
            camera=camera,
            light=light,
            crowd=float(crowd),
            faces=faces,
            cover=cover,
            visible=visible,
        )

    def _camera(
        self, rng: np.random.Generator, building: Building, azimuth: float, far: float, fill: float
    ) -> Camera:
        """A camera that sees the building over the share `fill` of the photo's narrower extent."""
        near = 1.5 * max(building.radius, 0.7 * building.height) + 6
        x, y, _ = (direction(azimuth) * near * far).tolist()
        aim = (float(rng.normal(0, 0.8)), float(rng.normal(0, 0.8)), 0.45 * building.height)
        camera = Camera((x, y, float(rng.uniform(1.5, 3.2))), aim, float(rng.normal(0, 1.6)), 1.0)
        corners = np.concatenate([face.corners for face in building.faces])
        seen = (corners - camera.position) @ camera.rotation.T
        extent = np.ptp(seen[:, :2] / seen[:, 2:], axis=0) * (1, self.size[0] / self.size[1])
        camera = replace(camera, focal=float(np.clip(fill / extent.max(), 0.55, 4.0)))
        shift = 0.12 * rng.uniform(-1, 1, 2) * near * far / camera.focal
        aside = direction(azimuth + 90) * shift[0]
        return replace(
            camera,
            target=(aim[0] + float(aside[0]), aim[1] + float(aside[1]), aim[2] + 0.5 * float(shift[1])),
        )

    def _scene(self, number: int, building: Building, camera: Camera, light: Light, crowd: float) -> Scene:
        rng = np.random.default_rng([self.seed, 4, number])
        return Scene(building, surroundings(rng, building, camera, crowd), camera, light)

    def _truth(self, scene: Scene, distance: float) -> tuple[dict[str, float], float, float]:
        """Shares of the faces, cover and visible share, measured on a quarter of the photo's size."""
        position = np.asarray(scene.camera.position)
        before = [
            item for item in scene.items if item.cutout and np.linalg.norm(item.origin - position) < distance
        ]
        seen = visibility(
            replace(scene, items=before), (max(self.size[0] // 4, 32), max(self.size[1] // 4, 32))
        )
        shown = np.bincount(seen.surface[seen.surface >= 0], minlength=len(scene.building.faces))
        pixels = dict.fromkeys(SIDES, 0)
        for face, count in zip(scene.building.faces, shown.tolist(), strict=False):
            pixels[face.side] += count
        total = sum(pixels.values())
        faces = {side: round(count / total, 4) for side, count in pixels.items() if count}
        return faces, round(total / seen.surface.size, 4), round(total / max(int(seen.whole.sum()), 1), 4)

    def render(self, photo: Photo) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Take a photo: uint8 RGB [H, W, 3], and bool [H, W] where it shows the building.

        Raises:
            ValueError: the photo is not of this world.
        """
        if photo not in self.photos:
            raise ValueError(
                f"{photo.image_id} is no photo of this sample world of seed {self.seed}: use its `photos`"
            )
        number = self._numbers[photo.image_id]
        scene = self._scene(number, self.buildings[photo.subject], photo.camera, photo.light, photo.crowd)
        return render(scene, self.size, np.random.default_rng([self.seed, 5, number]))

    def ground_truth(self) -> dict[str, Any]:
        """The truth in the schema of the revisited benchmarks: `imlist`, `qimlist` and `gnd`.

        `easy` are index photos of the query's landmark that show a face which the query shows too, `hard`
        those that show none (they are reached over other photos only), `junk` those that show too little of
        the building.
        The box of a query, `bbx`, is the whole photo.
        """
        index = [photo for photo in self.photos if photo.role == "index"]
        queries = [photo for photo in self.photos if photo.role == "query"]
        labels = []
        for query in queries:
            lists: dict[str, list[Any]] = {"easy": [], "hard": [], "junk": []}
            for number, photo in enumerate(index):
                if query.landmark is not None and photo.landmark == query.landmark:
                    name = "junk" if photo.junk else "easy" if query.shared(photo) >= EASY_SHARE else "hard"
                    lists[name].append(number)
            labels.append({**lists, "bbx": [0.0, 0.0, float(self.size[0]), float(self.size[1])]})
        return {
            "imlist": [photo.image_id for photo in index],
            "qimlist": [photo.image_id for photo in queries],
            "gnd": labels,
        }

    def truth(self) -> dict[str, Any]:
        """Everything known about every photo, ready for JSON, by image id."""
        return {
            photo.image_id: {
                "role": photo.role,
                "subject": photo.subject,
                "landmark": photo.landmark,
                "azimuth": round(photo.azimuth, 2),
                "distance": round(photo.distance, 2),
                "faces": dict(photo.faces),
                "light": photo.light.name,
                "cover": photo.cover,
                "visible": photo.visible,
                "junk": photo.junk,
            }
            for photo in self.photos
        }

    def write(
        self,
        folder: str | os.PathLike[str],
        workers: int | None = None,
        masks: bool = False,
        progress: Progress | None = None,
    ) -> None:
        """Write the world as a data set of the revisited layout.

        Makes `jpg/<id>.jpg` (index), `queries_cropped/<id>.jpg`, `gnd.json`, `truth.json` and, if asked for,
        `masks/<id>.png` (255 where the photo shows the building). Any number of workers makes the same bytes.

        Args:
            folder: made if need be; photos of the same name are written over.
            workers: threads, one per processor by default.
            masks: whether to write masks.
            progress: called after every photo, in the calling thread.
        """
        root = Path(folder)
        folders = {"index": root / "jpg", "query": root / "queries_cropped"}
        place = {photo.image_id: folders[photo.role] for photo in self.photos}
        self._take(place, root / "masks" if masks else None, workers, progress)
        (root / "gnd.json").write_text(json.dumps(self.ground_truth(), indent=1) + "\n", encoding="utf-8")
        (root / "truth.json").write_text(json.dumps(self.truth(), indent=1) + "\n", encoding="utf-8")

    def write_folders(
        self,
        folder: str | os.PathLike[str],
        distractors: bool = True,
        workers: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Write the index photos with one subfolder per building, as for leave-one-out evaluation.

        Args:
            folder: made if need be.
            distractors: whether to write the buildings with a single photo too. Look-alikes, which have
                several, are always written.
            workers: threads, one per processor by default.
            progress: called after every photo, in the calling thread.
        """
        photos = [photo for photo in self.photos if photo.role == "index"]
        if not distractors:
            photos = [photo for photo in photos if not photo.subject.startswith("distractor")]
        place = {photo.image_id: Path(folder) / photo.subject for photo in photos}
        self._take(place, None, workers, progress)

    def _take(
        self, place: Mapping[str, Path], masks: Path | None, workers: int | None, progress: Progress | None
    ) -> None:
        """Take the photos whose ids are in `place` into its folders, building by building."""
        for path in {*place.values(), *([masks] if masks else [])}:
            path.mkdir(parents=True, exist_ok=True)
        photos = sorted(
            (photo for photo in self.photos if photo.image_id in place), key=lambda photo: photo.subject
        )
        left = Counter(photo.subject for photo in photos)
        pool = ThreadPoolExecutor(workers or os.cpu_count())
        try:
            futures = {
                pool.submit(self._take_one, photo, place[photo.image_id], masks): photo for photo in photos
            }
            for done, future in enumerate(as_completed(futures), start=1):
                future.result()
                subject = futures[future].subject
                left[subject] -= 1
                if not left[subject]:
                    self.buildings[subject].forget()
                if progress is not None:
                    progress(done, len(photos))
        finally:
            pool.shutdown(cancel_futures=True)

    def _take_one(self, photo: Photo, folder: Path, masks: Path | None) -> None:
        picture, mask = self.render(photo)
        quality = int(np.random.default_rng([self.seed, 6, self._numbers[photo.image_id]]).integers(84, 96))
        _save(folder / f"{photo.image_id}.jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if masks is not None:
            _save(masks / f"{photo.image_id}.png", mask.astype(np.uint8) * 255, [])


def _save(path: Path, picture: NDArray[np.uint8], options: list[int]) -> None:
    _, data = cv2.imencode(path.suffix, picture, options)
    path.write_bytes(data.tobytes())
