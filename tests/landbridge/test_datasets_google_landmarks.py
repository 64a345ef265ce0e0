import pytest

from landbridge.datasets import DatasetError, Truth, load_dataset

INDEX = ("00aa", "01bb", "02cc")
SOLUTION = """id,images,Usage
f1,00aa 02cc,Public
f2,01bb,Private
f3,None,Ignored
"""


def write(folder, queries="test", nested=True, solution=SOLUTION):
    for part, ids in (("index", INDEX), (queries, ("f1", "f2"))):
        for item in ids:
            parent = folder / part / item[0] / item[1] if nested else folder / part
            parent.mkdir(parents=True, exist_ok=True)
            (parent / f"{item}.jpg").touch()
    if solution is not None:
        (folder / "retrieval_solution_v2.1.csv").write_text(solution)


@pytest.mark.parametrize("queries", ["test", "queries"])
@pytest.mark.parametrize("nested", [True, False])
def test_photos_and_truth(tmp_path, queries, nested):
    write(tmp_path, queries, nested)
    dataset = load_dataset(tmp_path)
    assert list(dataset.index) == list(INDEX)
    assert dataset.index["00aa"] == tmp_path / "index" / ("0/0" if nested else "") / "00aa.jpg"
    assert list(dataset.queries) == ["f1", "f2"]
    assert dataset.queries["f1"] == tmp_path / queries / ("f/1" if nested else "") / "f1.jpg"
    assert dataset.protocols == {
        "all": {"f1": Truth(frozenset({"00aa", "02cc"})), "f2": Truth(frozenset({"01bb"}))}
    }
    assert dataset.metric == "challenge"
    assert dataset.unjudged == {"f3"}
    assert not dataset.leave_one_out


def test_the_metric_of_the_challenge(tmp_path):
    # f1: p n p: (1 + 2/3) / 2 = 5/6;  f2 has no ranking: 0;  f3 is ignored.  P@10: (2/10 + 0) / 2.
    write(tmp_path)
    scores = load_dataset(tmp_path).evaluate({"f1": ["00aa", "01bb", "02cc"], "f3": ["00aa"]})
    recalls = {"Recall@1": 50, "Recall@5": 50, "Recall@10": 50}
    assert scores == {"all": pytest.approx({"mAP": 100 * 5 / 12, "mP@10": 10} | recalls)}


def test_a_query_that_shows_nothing_is_never_scored(tmp_path):
    write(tmp_path, solution=SOLUTION.replace("01bb,", "None,"))
    dataset = load_dataset(tmp_path)
    assert dataset.protocols["all"]["f2"] == Truth(frozenset())
    assert dataset.scored("all") == ["f1"]
    (tmp_path / "retrieval_solution_v2.1.csv").write_text(SOLUTION.replace("01bb,", ","))
    assert load_dataset(tmp_path).scored("all") == ["f1"]


def test_index_csv_sets_the_index_and_its_order(tmp_path):
    write(tmp_path)
    (tmp_path / "index" / "extra.jpg").touch()
    assert "extra" in load_dataset(tmp_path).index
    (tmp_path / "index.csv").write_text("id\n02cc\n00aa\n01bb\n")
    (tmp_path / "test.csv").write_text("id\nf1\nf2\nf3\n")
    assert list(load_dataset(tmp_path).index) == ["02cc", "00aa", "01bb"]


def test_a_spreadsheet_may_have_saved_the_solution(tmp_path):
    write(tmp_path, solution=None)
    text = '\ufeff"id","Usage","images"\r\n"f1","public"," 00aa  02cc "\r\n\r\n"f2","PRIVATE","01bb"\r\n'
    (tmp_path / "solution.csv").write_bytes(text.encode())
    assert load_dataset(tmp_path).protocols["all"]["f1"].positives == {"00aa", "02cc"}


def test_a_row_longer_than_the_csv_module_likes(tmp_path):
    many = [f"{number:016x}" for number in range(9000)]
    write(tmp_path, solution=f"id,images,Usage\nf1,{' '.join(many)},Public\n")
    with pytest.raises(
        DatasetError, match=r"9000 of 9000 photos in .* are not in the index: 0000000000000000,"
    ):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("solution", "message"),
    [
        (None, r"needs one solution, .*: it has none \(there is no CSV\)"),
        ("id,images\nf1,00aa\n", r"it has none \(retrieval_solution_v2\.1\.csv has id,images\)"),
        ("", "needs one solution, .*: it has none"),
        (SOLUTION + "f1,00aa,Public\n", "line 5: the id f1 is there already"),
        (SOLUTION + ",00aa,Public\n", "line 5: the id is empty"),
        (SOLUTION + "f4,00aa\n", "line 5: 2 fields for 3 columns"),
        (SOLUTION + "f4,00aa,Secret\n", "f4 has the usage 'Secret': it must be Public, Private or Ignored"),
        (SOLUTION + "f4,00aa,Public\n", "1 of 3 query photos are not in .*test: f4"),
        (SOLUTION + "f4,zz xx,Public\n", "2 of 5 photos in .*csv are not in the index: xx, zz; add them to"),
        ("id,images,Usage\nf3,None,Ignored\n", "no query has 1 or more positives"),
    ],
)
def test_faults_are_named(tmp_path, solution, message):
    write(tmp_path, solution=solution)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path)


def test_two_solutions_are_one_too_many(tmp_path):
    write(tmp_path)
    (tmp_path / "another.csv").write_text(SOLUTION)
    with pytest.raises(DatasetError, match=r"it has several: .*another.csv, .*retrieval_solution_v2.1.csv"):
        load_dataset(tmp_path)


def test_photos_of_the_index_csv_that_are_missing(tmp_path):
    write(tmp_path)
    (tmp_path / "index.csv").write_text("id\n00aa\n01bb\n02cc\n03dd\n")
    with pytest.raises(DatasetError, match=r"1 of 4 photos of index\.csv are not in .*index: 03dd"):
        load_dataset(tmp_path)
    (tmp_path / "index.csv").write_text("id\n00aa\n01bb\n")
    with pytest.raises(DatasetError, match=r"not in the index: 02cc; add them to .*index and .*index\.csv"):
        load_dataset(tmp_path)


def test_an_index_without_queries_is_refused(tmp_path):
    write(tmp_path, queries="elsewhere")
    with pytest.raises(DatasetError, match="has index/ but neither test/ nor queries/"):
        load_dataset(tmp_path)


def test_a_csv_that_is_not_text_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "another.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="a CSV is not text in UTF-8"):
        load_dataset(tmp_path)


class TestRecognition:
    SOLUTION = """id,landmarks,Usage
f1,7,Public
f2,,Private
f3,9,Ignored
f4,8 7,Public
"""
    LABELS = "id,url,landmark_id\n00aa,http://x,7\n01bb,http://x,8\n02cc,http://x,\nelsewhere,http://x,7\n"

    def write(self, folder, part="train", solution=SOLUTION, labels=LABELS):
        for name, ids in ((part, INDEX), ("test", ("f1", "f2", "f4"))):
            (folder / name).mkdir(exist_ok=True)
            for item in ids:
                (folder / name / f"{item}.jpg").touch()
        (folder / "recognition_solution_v2.1.csv").write_text(solution)
        if labels is not None:
            (folder / "train.csv").write_text(labels)

    @pytest.mark.parametrize("part", ["train", "index"])
    def test_labels_and_what_retrieval_should_find(self, tmp_path, part):
        self.write(tmp_path, part)
        dataset = load_dataset(tmp_path)
        assert list(dataset.index) == list(INDEX)
        assert dataset.labels == {"00aa": "7", "01bb": "8"}
        assert dataset.landmarks == {
            "f1": frozenset({"7"}), "f2": frozenset(), "f4": frozenset({"7", "8"}),
        }  # fmt: skip
        assert dataset.protocols == {
            "all": {
                "f1": Truth(frozenset({"00aa"})),
                "f2": Truth(frozenset()),
                "f4": Truth(frozenset({"00aa", "01bb"})),
            }
        }
        assert dataset.unjudged == {"f3"}
        assert dataset.metric == "challenge"

    def test_labels_may_be_in_several_files(self, tmp_path):
        self.write(tmp_path, labels="id,landmark_id\n00aa,7\n")
        (tmp_path / "more.csv").write_text("id,landmark_id\n01bb,8\n02cc,\n00aa,7\n")
        assert load_dataset(tmp_path).labels == {"00aa": "7", "01bb": "8"}
        (tmp_path / "more.csv").write_text("id,landmark_id\n01bb,8\n02cc,\n00aa,5\n")
        with pytest.raises(DatasetError, match=r"train.csv: the landmark of 00aa is 7, but 5 in another"):
            load_dataset(tmp_path)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (None, "3 of 3 index photos have no row in a CSV with the columns id,landmark_id: 00aa, 01bb"),
            (
                "id,landmark_id\n00aa,7\n01bb,8\n",
                r"1 of 3 index photos have no row in .*train\.csv: 02cc; add",
            ),
            ("id,landmark_id\n00aa\n", "line 2: 1 fields for 2 columns"),
        ],
    )
    def test_faults_are_named(self, tmp_path, labels, message):
        self.write(tmp_path, labels=labels)
        with pytest.raises(DatasetError, match=message):
            load_dataset(tmp_path)

    def test_one_solution_alone(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "retrieval_solution_v2.1.csv").write_text(SOLUTION)
        with pytest.raises(DatasetError, match=r"it has several: .*retrieval.*recognition.*; keep one"):
            load_dataset(tmp_path)
