import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from landbridge.recognition import Recognition
from landbridge.submission import read_recognition, read_submission, write_recognition, write_submission


def test_the_file_as_the_challenge_wants_it(tmp_path):
    path = tmp_path / "submission.csv"
    write_submission(path, {"f2": ["00aa", "01bb"], "f1": []})
    assert path.read_bytes() == b"id,images\nf2,00aa 01bb\nf1,\n"


def test_a_hundred_ids_and_no_more(tmp_path):
    ranking = [f"{number:016x}" for number in range(101)]
    write_submission(tmp_path / "submission.csv", {"q": ranking})
    assert read_submission(tmp_path / "submission.csv") == {"q": ranking[:100]}
    write_submission(str(tmp_path / "submission.csv"), {"q": ranking}, limit=1)
    assert read_submission(str(tmp_path / "submission.csv")) == {"q": ranking[:1]}
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        write_submission(tmp_path / "submission.csv", {"q": ranking}, limit=0)


ids = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters=',"'), min_size=1).filter(
    str.isprintable
)


@given(rankings=st.dictionaries(ids, st.lists(ids, max_size=100)))
def test_what_is_written_is_read(tmp_path_factory, rankings):
    path = tmp_path_factory.getbasetemp() / "round.csv"
    write_submission(path, rankings)
    assert list(read_submission(path).items()) == list(rankings.items())


@pytest.mark.parametrize("unfit", ["big tower", "a,b", 'a"b', "a\nb", "a\tb", "", "a\u00a0b"])
def test_unfit_ids_are_named_and_nothing_is_written(tmp_path, unfit):
    path = tmp_path / "submission.csv"
    path.write_text("earlier")
    for rankings in ({"q": ["fine", unfit]}, {unfit: ["fine"]}):
        with pytest.raises(ValueError, match="1 ids cannot be written to a submission") as caught:
            write_submission(path, rankings)
        assert repr(unfit) in str(caught.value)
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "submission.csv"
    write_submission(path, {"q": ["old"]})

    def disk_full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space left"):
        write_submission(path, {"q": ["new"]})
    assert read_submission(path) == {"q": ["old"]}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="file modes are a matter of POSIX")
def test_the_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "any").touch()
    write_submission(tmp_path / "submission.csv", {})
    assert (tmp_path / "submission.csv").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_columns_may_stand_in_any_order(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("Images,note,ID\na b,x,q\n\n c ,,r\n")
    assert read_submission(path) == {"q": ["a", "b"], "r": ["c"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "submission.csv has no column id, images"),
        (
            "id,landmarks\nq,5 0.3\n",
            "submission.csv has no column images: its first line reads 'id,landmarks'",
        ),
        ("id,images\nq,a\nr\n", "submission.csv, line 3: 1 fields for 2 columns"),
        ("id,images\nq,a,b\n", "submission.csv, line 2: 3 fields for 2 columns"),
        ("id,images\nq,a\nq,b\n", "submission.csv, line 3: the id q is there already"),
        ("id,images\n,a\n", "submission.csv, line 2: the id is empty"),
    ],
)
def test_faults_are_named(tmp_path, text, message):
    path = tmp_path / "submission.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_submission(path)


class TestRecognition:
    def test_the_file_as_the_challenge_wants_it(self, tmp_path):
        path = tmp_path / "recognition.csv"
        write_recognition(path, {"f2": Recognition("8815", 0.03), "f1": None})
        assert path.read_bytes() == b"id,landmarks\nf2,8815 0.03\nf1,\n"

    @given(
        recognised=st.dictionaries(ids, st.none() | st.builds(Recognition, ids, st.floats(0, 1)), max_size=20)
    )
    def test_what_is_written_is_read(self, tmp_path_factory, recognised):
        path = tmp_path_factory.getbasetemp() / "recognition.csv"
        write_recognition(path, recognised)
        assert list(read_recognition(path).items()) == list(recognised.items())

    @pytest.mark.parametrize(
        ("recognised", "message"),
        [
            (
                {"q": Recognition("big tower", 1.0)},
                "1 landmarks cannot be written .*'big tower'; rename these",
            ),
            ({"q 1": None}, "1 ids cannot be written .*'q 1'; rename these photos"),
        ],
    )
    def test_unfit_names_and_nothing_is_written(self, tmp_path, recognised, message):
        with pytest.raises(ValueError, match=message):
            write_recognition(tmp_path / "recognition.csv", recognised)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("row", ["7", "7 sure", "7 nan", "7 0.5 8 0.4"])
    def test_faults_are_named(self, tmp_path, row):
        (tmp_path / "r.csv").write_text(f"id,landmarks\nq,{row}\n")
        with pytest.raises(ValueError, match=f"the row of q must hold a landmark and its score.*'{row}'"):
            read_recognition(tmp_path / "r.csv")
