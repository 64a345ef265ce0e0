"""What rehearsing a build does that needs no root: files of the context, configuration, what is kept."""

import importlib.util
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).parent.parent.parent / "docker"


@pytest.fixture(scope="module")
def rehearsal():
    sys.path.insert(0, str(DOCKER))
    try:
        spec = importlib.util.spec_from_file_location("landbridge_rehearsal", DOCKER / "rehearsal.py")
        sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCKER))
    return module


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "context"
    for name in ("a/one.py", "a/__pycache__/one.pyc", "b/two.py", "c.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def build(rehearsal, context, tmp_path):
    ignore = rehearsal.Ignore("*\n!a\n!c.txt\n**/__pycache__\n")
    return rehearsal.Build(context, ignore, tmp_path / "work", {"GIVEN": "2"})


def stage(rehearsal, text):
    from dockerfile import parse

    return parse(f"FROM base AS s\n{text}\n")[1][0]


@pytest.fixture(autouse=True)
def importable(rehearsal, monkeypatch):
    monkeypatch.syspath_prepend(DOCKER)


def test_of_a_folder_the_content_is_copied_and_no_more(build, context, tmp_path):
    root = tmp_path / "root"
    build._copy_context(context / "a", root / "a", many=False)
    assert [file.relative_to(root) for file in root.rglob("*") if file.is_file()] == [Path("a/one.py")]


def test_a_file_goes_into_a_folder_or_gets_a_name(build, context, tmp_path):
    build._copy_context(context / "c.txt", tmp_path / "root", many=True)
    build._copy_context(context / "c.txt", tmp_path / "root" / "d.txt", many=False)
    assert {file.name for file in (tmp_path / "root").iterdir()} == {"c.txt", "d.txt"}


@pytest.mark.parametrize("name", ["missing", "b"])
def test_what_the_context_lacks_or_hides_is_an_error(build, context, tmp_path, name):
    with pytest.raises(FileNotFoundError, match=f"{name} is not in the build context"):
        build._copy_context(context / name, tmp_path / "root", many=False)


def test_a_stage_configures_its_image(rehearsal, build):
    text = (
        'ARG GIVEN=1\nARG OTHER=3\nENV PATH=/x:${PATH} N=$GIVEN$OTHER\nWORKDIR /a\nWORKDIR b\nCMD ["gone"]\n'
        'ENTRYPOINT ["e"]\nCMD ["c"]\nHEALTHCHECK --interval=1s CMD ["h", "1"]\nUSER 7:8'
    )
    image, scope = rehearsal.Image([]), {}
    for step in stage(rehearsal, text).instructions:
        image = build._configured(step, image, scope)
    assert scope == {"GIVEN": "2", "OTHER": "3"}
    assert image.environment["PATH"] == f"/x:{rehearsal.SYSTEM_PATH}"
    assert image.environment["N"] == "23"
    assert "GIVEN" not in image.environment
    assert (image.workdir, image.user) == ("/a/b", "7:8")
    assert (image.entrypoint, image.command, image.health) == (["e"], ["c"], ["h", "1"])


def test_a_command_sees_the_variables_of_the_image_and_no_others(rehearsal):
    image = rehearsal.Image([], environment={"A": "1"}, workdir="/w", user="7:8")
    command = rehearsal.inside(Path("/r"), image, ["x", "y"], B="2")
    assert command[:3] == ["chroot", "--userspec=7:8", "/r"]
    assert command[3:6] == ["/usr/bin/env", "--ignore-environment", "--chdir=/w"]
    assert command[6:] == ["HOME=/root", "A=1", "B=2", "x", "y"]


def test_a_stage_is_kept_until_what_it_is_made_of_changes(rehearsal, build, context):
    copies, runs = stage(rehearsal, "COPY a a"), stage(rehearsal, "COPY --from=other /x /y\nRUN true")
    first = build._digest(copies)
    (context / "a/__pycache__/one.pyc").write_text("hidden")
    (context / "b/two.py").write_text("not copied")
    assert build._digest(copies) == first
    (context / "a/one.py").write_text("changed")
    assert build._digest(copies) != first
    build._digests["other"] = "1"
    second = build._digest(runs)
    build._digests["other"] = "2"
    assert build._digest(runs) != second


@pytest.mark.parametrize("image", ["python:3.11-slim-bookworm", "debian:12"])
def test_the_stand_in_is_for_exact_images_of_python(rehearsal, tmp_path, image):
    with pytest.raises(rehearsal.BuildError, match=image):
        rehearsal.base(image, tmp_path)


def test_the_stand_in_must_have_the_python_of_the_image(rehearsal, tmp_path):
    (tmp_path / "bookworm/usr/bin").mkdir(parents=True)
    (tmp_path / "bookworm/usr/bin/python3.11").touch()
    with pytest.raises(rehearsal.BuildError, match=r"no Python 3\.13"):
        rehearsal.base("python:3.13.1-slim-bookworm", tmp_path)
