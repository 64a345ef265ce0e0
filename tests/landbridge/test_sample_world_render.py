"""The sample world's renderer: geometry by hand, what hides what, light, and textures that never repeat."""

from dataclasses import replace

import numpy as np
import pytest

from landbridge.sample_world import facade
from landbridge.sample_world.building import KINDS, SIDES, Building, box, direction, side_of
from landbridge.sample_world.camera import Camera
from landbridge.sample_world.light import LIGHTS, Light
from landbridge.sample_world.opening import window
from landbridge.sample_world.render import render
from landbridge.sample_world.scene import Item, Scene
from landbridge.sample_world.style import Style
from landbridge.sample_world.texture import GLASS, PLANE, Canvas, Texture
from landbridge.sample_world.tone import develop, linear
from landbridge.sample_world.visibility import project, visibility

UP = np.array([0.0, 0.0, 1.0])
AHEAD = Camera((20.0, 0.0, 5.0), (0.0, 0.0, 5.0), 0.0, 1.0)
"""Looks along -x at the front of what stands at the origin, from the height of 5 metres."""


@pytest.fixture(scope="module")
def museum():
    return Building("museum", 1, 2)


@pytest.fixture
def daylight():
    return Light.random(np.random.default_rng(0), "day")


def card(x, y, width, height, colour=(255, 0, 0), alpha=None):
    """An upright card that faces +x, its lower left corner at (x, y, 0) as seen from there."""
    albedo = np.full((20, 20, 3), colour, np.uint8)
    picture = Texture(albedo, None, None, alpha, 20 / height)
    outline = np.array([(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)])
    origin = np.array([x, y, 0.0])
    return Item(origin, np.array([0.0, 1.0, 0.0]), UP, outline, lambda: picture, alpha is not None)


class Nothing:
    """A building without faces."""

    faces = ()


class TestCamera:
    def test_pinhole_by_hand(self):
        # Focal length 100 pixels, 20 metres away: one metre is 5 pixels. The right side (+y) is on the right.
        plane = AHEAD.plane((100, 80), np.zeros(3), np.array([0.0, 1.0, 0.0]), UP)
        pixels = project(plane, np.array([(0.0, 5.0), (2.0, 5.0), (0.0, 7.0)]))
        np.testing.assert_allclose(pixels, [(49.5, 39.5), (59.5, 39.5), (49.5, 29.5)], atol=1e-9)

    def test_roll_turns_the_photo(self):
        rolled = replace(AHEAD, roll=90.0)
        plane = rolled.plane((100, 80), np.zeros(3), np.array([0.0, 1.0, 0.0]), UP)
        pixels = project(plane, np.array([(2.0, 5.0), (0.0, 7.0), (0.0, 5.0)]))
        np.testing.assert_allclose(np.abs(pixels[0] - pixels[2]), (0, 10), atol=1e-9)
        np.testing.assert_allclose(np.abs(pixels[1] - pixels[2]), (10, 0), atol=1e-9)

    def test_what_is_behind_is_cut_off(self):
        ground = AHEAD.plane((100, 80), np.zeros(3), np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
        assert project(ground, np.array([(30.0, 0.0), (40.0, 0.0), (40.0, 1.0)])) is None
        crossing = project(ground, np.array([(10.0, -1.0), (30.0, -1.0), (30.0, 1.0), (10.0, 1.0)]))
        # Ten metres ahead and five below: 50 pixels under the centre; cut at half a metre: 1000 pixels under.
        assert crossing[:, 1].min() == pytest.approx(39.5 + 50)
        assert crossing[:, 1].max() == pytest.approx(39.5 + 1000)


class TestVisibility:
    def test_the_nearer_card_hides_the_farther(self, daylight):
        # At depth 20 and 10, 4 metres are 20 and 40 pixels wide; the nearer one's foot is below the photo.
        far, near = card(0, -2, 4, 5), card(10, 0, 4, 5)
        for items, (front, back) in (([far, near], (1, 0)), ([near, far], (0, 1))):
            seen = visibility(Scene(Nothing(), items, AHEAD, daylight), (100, 80))
            assert (seen.surface == front).sum() == pytest.approx(40 * 40.5, abs=50)
            # Of the farther one, the left half stays: 10 columns, 25 rows.
            assert (seen.surface == back).sum() == pytest.approx(10 * 25, abs=30)
            assert seen.surface[45, 45] == back
            assert seen.surface[45, 55] == front
            assert seen.surface[10, 10] == -1

    def test_a_card_is_seen_from_its_front_only(self, daylight):
        behind = replace(AHEAD, position=(-20.0, 0.0, 5.0))
        seen = visibility(Scene(Nothing(), [card(0, -2, 4, 5)], behind, daylight), (100, 80))
        assert (seen.surface == -1).all()

    def test_holes_let_through(self, daylight):
        alpha = np.full((20, 20), 255, np.uint8)
        alpha[:, :10] = 0
        items = [card(0, -2, 4, 5), card(10, -2, 4, 5, alpha=alpha)]
        seen = visibility(Scene(Nothing(), items, AHEAD, daylight), (100, 80))
        assert seen.surface[45, 45] == 0
        assert seen.surface[45, 55] == 1

    def test_whole_building_is_known_behind_a_card(self, museum, daylight):
        camera = Camera((45.0, 0.0, 3.0), (0.0, 0.0, 5.0), 0.0, 1.0)
        free = visibility(Scene(museum, [], camera, daylight), (160, 120))
        hidden = visibility(Scene(museum, [card(30, -1.5, 3, 9)], camera, daylight), (160, 120))
        np.testing.assert_array_equal(free.whole, hidden.whole)
        np.testing.assert_array_equal(free.whole, free.surface >= 0)
        covered = (hidden.surface == len(museum.faces)) & free.whole
        assert covered.sum() > 200
        np.testing.assert_array_equal(
            hidden.surface[~covered & free.whole], free.surface[~covered & free.whole]
        )

    def test_a_texture_is_the_right_way_round(self, daylight):
        picture = card(0, -2, 4, 5)
        texture = picture.picture
        texture.albedo[:10], texture.albedo[10:] = (220, 20, 20), (20, 20, 220)
        texture.albedo[:, 10:, 1] = 220
        light = replace(daylight, sun=(1.0, 0.0, 0.0), cast=(1.0, 1.0, 1.0))
        photo, mask = render(Scene(Nothing(), [picture], AHEAD, light), (100, 80), np.random.default_rng(0))
        assert not mask.any()
        upper_left, lower_right = photo[44, 44].astype(int), photo[58, 55].astype(int)
        assert upper_left[0] > upper_left[1:].max() + 60
        assert lower_right[1:].min() > lower_right[0] + 60


class TestBuilding:
    @pytest.mark.parametrize("kind", KINDS)
    def test_faces_are_flat_convex_and_look_outwards(self, kind):
        for seed in range(3):
            building = Building(kind, 5, seed)
            assert {face.side for face in building.faces} >= {"front", "right", "back", "left"}
            for face in building.faces:
                edges = np.roll(face.corners, -1, axis=0) - face.corners
                turns = np.cross(edges, np.roll(edges, -1, axis=0)) @ face.normal
                assert (turns > -1e-6).all()
                assert turns.max() > 0
                assert face.normal[2] > -1e-9
                assert np.ptp(face.corners @ face.normal) < 1e-6
                assert face.corners[:, 2].min() > -1e-9
            roofs = [face for face in building.faces if face.normal[2] > 0.05]
            assert roofs
            # The farthest walls stand away from the middle: a wall turned inside out would fail here.
            for azimuth, side in ((0, "front"), (90, "right"), (180, "back"), (270, "left")):
                outermost = max(building.faces, key=lambda face: (face.corners @ direction(azimuth)).min())
                assert outermost.side == side or outermost.side.startswith(side) or side in outermost.side

    def test_sides_by_azimuth(self):
        assert [side_of(azimuth) for azimuth in range(0, 360, 45)] == list(SIDES)
        assert side_of(-90) == "left"
        assert side_of(359) == "front"

    def test_a_body_faces_left_first_and_then_front(self):
        left, front = box((0, 0), (4, 6))[:2], box((0, 0), (4, 6))[1:3]
        np.testing.assert_allclose(left, [(-2, -3), (2, -3)])
        np.testing.assert_allclose(front, [(2, -3), (2, 3)])

    def test_look_alikes_share_styles_and_nothing_else(self, museum):
        alike, other = Building("museum", 1, 3), Building("museum", 4, 2)
        for azimuth in (0, 90, 180, 270):
            assert alike.style(azimuth) == museum.style(azimuth)
            assert other.style(azimuth) != museum.style(azimuth)
        assert len({museum.style(azimuth) for azimuth in (0, 90, 180, 270)}) == 4
        assert alike.height != museum.height

    def test_look_alikes_of_one_size_differ_in_every_wall(self, monkeypatch):
        def cube(building, rng):
            building.walls(box((0, 0), (9, 9)), 0, 9, facade.parapet)

        monkeypatch.setitem(KINDS, "cube", cube)
        one, two = Building("cube", 1, 2), Building("cube", 1, 3)
        for number in range(4):
            a, b = (cube.texture(number).albedo.mean(2).ravel() for cube in (one, two))
            assert abs(np.corrcoef(a, b)[0, 1]) < 0.6
            assert np.abs(a - b).mean() > 10

    def test_textures_come_back_the_same(self, museum):
        first = museum.texture(1)
        assert museum.texture(1) is first
        museum.forget()
        again = museum.texture(1)
        assert again is not first
        np.testing.assert_array_equal(again.albedo, first.albedo)
        np.testing.assert_array_equal(again.slope, first.slope)


class TestTexture:
    def test_metres_are_pixels_upwards(self):
        canvas = Canvas(10, 4, 10)
        canvas.rectangle(2, 1, 5, 3, (200, 100, 50), 7)
        assert canvas.paint.shape == (40, 100, 4)
        red = canvas.paint[..., 0] == 200
        # From x = 2 to 5 and y = 1 to 3 metres: columns 20 to 49 and, from the top, rows 10 to 29.
        assert red[10:30, 20:50].mean() > 0.95
        assert red[:9].sum() + red[31:].sum() + red[:, :19].sum() + red[:, 51:].sum() == 0
        assert canvas.paint[20, 30, 3] == PLANE + 7

    def test_relief_rises_to_the_right_and_upwards(self):
        canvas = Canvas(4, 4, 10)
        canvas.rectangle(1, 1, 3, 3, (90, 90, 90), 20)
        slope = canvas.finished(np.random.default_rng(0), 0.0).slope
        # A step of 20 cm: up where one enters from the left or from below, down on the way out.
        assert slope[20, 9:11, 0].max() > 0.5
        assert slope[20, 29:31, 0].min() < -0.5
        assert slope[29:31, 20, 1].max() > 0.5
        assert slope[9:11, 20, 1].min() < -0.5

    def test_what_covers_glass_is_not_glass(self):
        canvas = Canvas(4, 4, 10)
        canvas.rectangle(0, 0, 4, 4, (20, 20, 20), GLASS, window=9)
        canvas.rectangle(0, 0, 2, 4, (90, 20, 20), 5)
        number = canvas.finished(np.random.default_rng(0), 0.5).window
        assert (number[:, :19] == 0).all()
        assert (number[:, 21:] == 9).all()

    def test_no_two_windows_are_alike(self):
        rng = np.random.default_rng(0)
        style = replace(Style.random(rng), shutters=False)
        pictures = []
        for _ in range(2):
            canvas = Canvas(3, 4, 26)
            window(canvas, rng, 1.5, 0.8, 1.2, 2.2, "flat", "none", (2, 4), style)
            pictures.append(canvas.paint[..., :3].astype(int))
        assert np.abs(pictures[0] - pictures[1]).mean() > 5

    def test_walls_are_full_of_structure(self, museum):
        albedo = museum.texture(1).albedo.astype(float).mean(2)
        tiles = albedo[: albedo.shape[0] // 32 * 32, : albedo.shape[1] // 32 * 32]
        tiles = tiles.reshape(albedo.shape[0] // 32, 32, albedo.shape[1] // 32, 32)
        assert (tiles.std((1, 3)) > 8).mean() > 0.95


class TestLight:
    def test_srgb_by_hand(self):
        values = linear(np.array([[0, 128, 255]], np.uint8))[0]
        np.testing.assert_allclose(values, (0.0, 0.21586, 1.0), atol=2e-3)

    def test_windows_are_lit_at_night_only(self, museum):
        camera = Camera((40.0, 0.0, 2.0), (0.0, 0.0, 6.0), 0.0, 1.0)
        lights = {name: Light.random(np.random.default_rng(1), name) for name in LIGHTS}
        assert lights["day"].lit == 0
        night = lights["night"]
        photos = []
        for light in (night, replace(night, lit=0.0)):
            scene = Scene(museum, [], camera, light)
            photos.append(render(scene, (160, 120), np.random.default_rng(3))[0].astype(int))
        assert (photos[0] - photos[1]).max() > 60

    def test_the_sun_lights_the_side_it_shines_on(self, museum, daylight):
        def front(sun):
            light = replace(daylight, sun=sun, skylight=(0.3, 0.3, 0.3))
            scene = Scene(museum, [], Camera((40.0, 0.0, 2.0), (0.0, 0.0, 6.0), 0.0, 1.0), light)
            photo, mask = render(scene, (160, 120), np.random.default_rng(3))
            return photo[mask].mean() / photo[~mask].mean()

        assert front((0.8, 0.0, 0.6)) > 1.3 * front((-0.8, 0.0, 0.6))

    def test_exposure_and_cast(self, daylight):
        grey, everywhere = np.full((60, 80, 3), 0.2, np.float32), np.ones((60, 80), bool)

        def developed(**changes):
            light = replace(daylight, exposure=0.0, cast=(1.0, 1.0, 1.0))
            return develop(grey, everywhere, replace(light, **changes), np.random.default_rng(0)).mean((0, 1))

        # The key of 0.29 through the shoulder, x (1 + x / 9) / (1 + 0.55 x), is 0.258: 139 in sRGB.
        np.testing.assert_allclose(developed(), 139, atol=6)
        assert developed(exposure=1.0).mean() > developed().mean() + 25
        red, green, blue = developed(cast=(1.15, 1.0, 0.85))
        assert red > green > blue
