"""The sample world keeps its promises: the same bytes every time, a true ground truth, no leaking names."""

import itertools
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from landbridge.sample_world import Photo, SampleWorld

SMALL = {
    "landmarks": 2,
    "photos_per_landmark": 4,
    "lookalikes": 1,
    "photos_per_lookalike": 2,
    "distractors": 2,
    "queries_per_landmark": 1,
    "queries_without_match": 1,
    "size": (160, 120),
}


def apart(a: Photo, b: Photo) -> float:
    """Degrees between the azimuths of two photos, 0 to 180."""
    return abs((a.azimuth - b.azimuth + 180) % 360 - 180)


@pytest.fixture(scope="module")
def world():
    return SampleWorld(seed=7, **SMALL)


@pytest.fixture(scope="module")
def written(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    steps = []
    world.write(folder, workers=1, masks=True, progress=lambda done, total: steps.append((done, total)))
    return folder, steps


@pytest.fixture(scope="module")
def default_world():
    return SampleWorld()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestDeterminism:
    def test_other_workers_write_the_same_bytes(self, written, tmp_path):
        SampleWorld(seed=7, **SMALL).write(tmp_path, workers=3, masks=True)
        assert contents(tmp_path) == contents(written[0])

    def test_photos_do_not_depend_on_what_was_rendered_before(self, world):
        fresh = SampleWorld(seed=7, **SMALL)
        for photo in world.photos[:2]:
            for picture, again in zip(world.render(photo), fresh.render(photo), strict=True):
                np.testing.assert_array_equal(picture, again)

    def test_another_seed_is_another_world(self, world):
        other = SampleWorld(seed=8, **SMALL)
        assert not {photo.image_id for photo in world.photos} & {photo.image_id for photo in other.photos}
        with pytest.raises(ValueError, match="no photo of this sample world of seed 8"):
            other.render(world.photos[0])


class TestWrite:
    def test_layout(self, world, written):
        folder, steps = written
        gnd = json.loads((folder / "gnd.json").read_text())
        assert {path.stem for path in (folder / "jpg").iterdir()} == set(gnd["imlist"])
        assert {path.stem for path in (folder / "queries_cropped").iterdir()} == set(gnd["qimlist"])
        assert len(gnd["imlist"]) == 2 * 4 + 2 + 2
        assert len(gnd["qimlist"]) == len(gnd["gnd"]) == 2 * 1 + 1
        truth = json.loads((folder / "truth.json").read_text())
        assert set(truth) == set(gnd["imlist"]) | set(gnd["qimlist"])
        assert steps == [(done, 15) for done in range(1, 16)]

    def test_photo_and_mask_are_what_render_gives(self, world, written):
        photo = next(photo for photo in world.photos if photo.role == "index")
        picture, mask = world.render(photo)
        assert picture.dtype == np.uint8
        assert picture.shape == (120, 160, 3)
        file = cv2.imread(str(written[0] / "jpg" / f"{photo.image_id}.jpg"))[..., ::-1]
        assert np.abs(file.astype(int) - picture).mean() < 8
        stored = cv2.imread(str(written[0] / "masks" / f"{photo.image_id}.png"), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(stored, mask * 255)

    def test_folders_are_buildings_without_queries(self, world, tmp_path):
        world.write_folders(tmp_path / "all")
        world.write_folders(tmp_path / "some", distractors=False)
        index = [photo for photo in world.photos if photo.role == "index"]
        everything = {(path.parent.name, path.stem) for path in (tmp_path / "all").glob("*/*.jpg")}
        assert everything == {(photo.subject, photo.image_id) for photo in index}
        kept = {path.parent.name for path in (tmp_path / "some").glob("*/*.jpg")}
        assert kept == {photo.landmark for photo in index if photo.landmark} | {"lookalike-00"}

    def test_an_unwritable_place_is_an_error(self, world, tmp_path):
        (tmp_path / "jpg").write_text("in the way")
        with pytest.raises(FileExistsError):
            world.write(tmp_path)


class TestNames:
    def test_ids_tell_nothing(self, default_world):
        photos = default_world.photos
        assert len({photo.image_id for photo in photos}) == len(photos) == 200
        assert all(re.fullmatch(r"w0_[0-9a-f]{6}", photo.image_id) for photo in photos)
        assert [photo.image_id for photo in photos] == sorted(photo.image_id for photo in photos)
        # Were photos listed building by building, almost all neighbours in the list would show the same one.
        together = [a.subject == b.subject for a, b in itertools.pairwise(photos)]
        assert np.mean(together) < 0.2

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"landmarks": -1}, "landmarks must not be negative, got -1"),
            ({"distractors": -3}, "distractors must not be negative, got -3"),
            ({"landmarks": 0}, "look-alikes need landmarks"),
            ({"size": (640, 20)}, "at least 64 x 64 pixels, got 640 x 20"),
        ],
    )
    def test_wrong_numbers_are_refused(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            SampleWorld(**wrong)

    def test_an_empty_world_is_a_world(self, tmp_path):
        empty = SampleWorld(landmarks=0, lookalikes=0, distractors=0, queries_without_match=0)
        empty.write(tmp_path)
        assert json.loads((tmp_path / "gnd.json").read_text()) == {"imlist": [], "qimlist": [], "gnd": []}


class TestTruth:
    def test_labels_are_a_partition_of_the_landmark(self, default_world):
        truth = default_world.ground_truth()
        by_id = {photo.image_id: photo for photo in default_world.photos}
        for name, labels in zip(truth["qimlist"], truth["gnd"], strict=True):
            query = by_id[name]
            found = labels["easy"] + labels["hard"] + labels["junk"]
            assert len(found) == len(set(found))
            shown = {by_id[truth["imlist"][number]].landmark for number in found}
            if query.landmark is None:
                assert not found
                continue
            assert shown == {query.landmark}
            assert len(found) == 16
            assert labels["easy"]
            assert labels["hard"]
            junk = {number for number in found if by_id[truth["imlist"][number]].junk}
            assert junk == set(labels["junk"])
            assert len(junk) <= 3
        assert any(labels["junk"] for labels in truth["gnd"])

    def test_junk_is_what_is_too_small_or_too_hidden(self, world):
        photo = world.photos[0]
        assert not replace(photo, cover=0.05, visible=0.5).junk
        assert replace(photo, cover=0.03, visible=1.0).junk
        assert replace(photo, cover=0.5, visible=0.3).junk

    def test_hard_photos_share_no_face_worth_mention(self, default_world):
        truth = default_world.ground_truth()
        by_id = {photo.image_id: photo for photo in default_world.photos}
        for name, labels in zip(truth["qimlist"], truth["gnd"], strict=True):
            query = by_id[name]
            shared = {
                kind: [query.shared(by_id[truth["imlist"][number]]) for number in labels[kind]]
                for kind in ("easy", "hard")
            }
            assert min(shared["easy"], default=1) > max(shared["hard"], default=0)
            for number in labels["easy"]:
                assert apart(query, by_id[truth["imlist"][number]]) < 90
            for number in range(len(truth["imlist"])):
                photo = by_id[truth["imlist"][number]]
                if query.landmark and photo.landmark == query.landmark and apart(query, photo) > 120:
                    assert number not in labels["easy"]

    def test_front_and_back_share_nothing(self, default_world):
        pairs = [
            (a, b)
            for a, b in itertools.combinations(default_world.photos, 2)
            if a.landmark and a.landmark == b.landmark
        ]
        opposite = [a.shared(b) for a, b in pairs if apart(a, b) > 172]
        beside = [a.shared(b) for a, b in pairs if apart(a, b) < 20]
        assert len(opposite) > 20
        assert max(opposite) < 0.04
        assert len(beside) > 20
        assert min(beside) > 0.2

    def test_photos_go_all_around(self, default_world):
        for landmark in {photo.landmark for photo in default_world.photos if photo.landmark}:
            around = np.sort(
                [p.azimuth for p in default_world.photos if p.landmark == landmark and p.role == "index"]
            )
            gaps = np.diff(np.append(around, around[0] + 360))
            assert gaps.max() < 360 / 16 * 1.61
        for query in default_world.photos:
            if query.role == "query" and query.landmark:
                assert abs((query.azimuth + 45) % 90 - 45) <= 14
                assert max(query.faces.values()) > 0.5

    def test_mask_agrees_with_the_truth_and_with_the_geometry(self, world):
        for photo in world.photos[:6]:
            _, mask = world.render(photo)
            assert abs(mask.mean() - photo.cover) < 0.03
            assert sum(photo.faces.values()) == pytest.approx(1, abs=0.01)
            # The building's corners through a pinhole written out anew: all of it lies within their hull.
            corners = np.concatenate([face.corners for face in world.buildings[photo.subject].faces])
            forward = np.subtract(photo.camera.target, photo.camera.position)
            forward = forward / np.linalg.norm(forward)
            right = np.array([forward[1], -forward[0], 0]) / np.hypot(forward[0], forward[1])
            down = np.cross(forward, right)
            roll = np.radians(photo.camera.roll)
            seen = (corners - photo.camera.position) @ np.stack([right, down, forward], axis=1)
            flat = seen[:, :2] / seen[:, 2:] * photo.camera.focal * 160
            turn = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
            pixels = flat @ turn.T + (79.5, 59.5)
            hull = np.zeros((120, 160), np.uint8)
            cv2.fillConvexPoly(hull, cv2.convexHull(np.round(pixels).astype(np.int32)), 1)
            grown = cv2.dilate(hull, np.ones((3, 3), np.uint8)).astype(bool)
            assert not (mask & ~grown).any()
            assert mask.sum() > 0.45 * photo.visible * hull.sum()

    def test_lights_and_obstacles_vary(self, default_world):
        index = [photo for photo in default_world.photos if photo.role == "index"]
        assert {photo.light.name for photo in index} == {"day", "overcast", "dusk", "night"}
        assert min(photo.visible for photo in index) < 0.7
        assert np.median([photo.visible for photo in index]) > 0.85


@pytest.fixture(scope="module")
def views():
    """Sixteen clear photos of two landmarks, by daylight, and their SIFT features."""
    world = SampleWorld(
        seed=6,
        landmarks=2,
        photos_per_landmark=24,
        lookalikes=0,
        distractors=0,
        queries_per_landmark=0,
        queries_without_match=0,
        size=(400, 300),
    )
    clear = [
        photo
        for photo in world.photos
        if photo.cover > 0.25 and photo.visible > 0.8 and photo.light.name in ("day", "overcast")
    ][:16]
    sift = cv2.SIFT_create(1200)
    greys = [cv2.cvtColor(world.render(photo)[0], cv2.COLOR_RGB2GRAY) for photo in clear]
    return clear, [sift.detectAndCompute(grey, None) for grey in greys]


def sift_inliers(a, b):
    (first, described), (second, other) = a, b
    pairs = cv2.BFMatcher().knnMatch(described, other, k=2)
    good = [best for best, next_best in pairs if best.distance < 0.8 * next_best.distance]
    if len(good) < 4:
        return 0
    source = np.array([first[match.queryIdx].pt for match in good])
    target = np.array([second[match.trainIdx].pt for match in good])
    _, kept = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 4.0, maxIters=2000)
    return 0 if kept is None else int(kept.sum())


def test_neighbours_match_and_strangers_do_not(views):
    """What retrieval rests on: views of one face match, and neither backs nor other buildings do."""
    beside, opposite, strangers = [], [], []
    for (a, of_a), (b, of_b) in itertools.combinations(zip(*views, strict=True), 2):
        if a.subject != b.subject:
            strangers.append(sift_inliers(of_a, of_b))
        elif apart(a, b) < 18:
            beside.append(sift_inliers(of_a, of_b))
        elif apart(a, b) > 150:
            opposite.append(sift_inliers(of_a, of_b))
    assert len(beside) >= 3
    assert len(opposite) >= 3
    assert len(strangers) >= 20
    assert np.median(beside) >= 50
    assert max(opposite + strangers) <= 20
    assert min(beside) > max(opposite + strangers)
