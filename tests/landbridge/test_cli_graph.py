"""`landbridge graph` as a stranger meets it: files in; submissions, tables and clusters out."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from typer.testing import CliRunner

from extractor.files import write_features
from landbridge import cli
from landbridge.submission import read_submission
from ranking.verification import create_verifier

runner = CliRunner(env={"COLUMNS": "110"})
PLACE = Path(__file__).with_name("test_experiments.py")


def call(*arguments):
    return runner.invoke(cli.app, ["graph", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def toy():
    """The toy photos of the tests of `landbridge.experiments`."""
    spec = importlib.util.spec_from_file_location("toy_features", PLACE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory):
    """Features in files of four kinds, a ground truth, and the graph of them."""
    folder = tmp_path_factory.mktemp("graph")
    photos = toy.INDEX.values()
    write_features(folder / "index.h5", photos)
    write_features(folder / "queries.npz", toy.QUERIES.values())
    write_features(folder / "delg", photos, "delg")
    toy.ground_truth(folder)
    answer = call(
        "build",
        folder / "index.h5",
        "--queries",
        folder / "queries.npz",
        "--candidates",
        6,
        "--out",
        folder / "g",
    )
    assert answer.exit_code == 0, answer.output
    assert "18 index images, 3 queries," in answer.stdout
    assert "verify index" in answer.stderr
    return folder


class TestBuild:
    def test_again_from_files_of_another_kind(self, folder):
        answer = call(
            *("build", folder / "delg", "--queries", folder / "queries.npz"),
            *("--candidates", 6, "--out", folder / "g", "--json"),
        )
        assert answer.exit_code == 0, answer.output
        facts = json.loads(answer.stdout)
        assert facts["verified"] == 0
        assert facts["failed"] == {}
        assert facts["graph"]["images"] == 18

    def test_bad_photos_are_listed_and_end_with_1(self, toy, tmp_path):
        write_features(tmp_path / "delg", toy.INDEX.values(), "delg")
        (tmp_path / "delg" / "castle" / "00.delg_local").write_bytes(b"\x0a")
        answer = call("build", tmp_path / "delg", "--candidates", 3, "--out", tmp_path / "g")
        assert answer.exit_code == 1
        assert "17 index images, 0 queries" in answer.stdout
        assert "1 photos were left out" in answer.stderr
        assert "00.delg_local: it is cut off" in answer.stderr.replace("\n", " ")

    def test_the_verifier_is_chosen(self, folder, tmp_path):
        usual = (folder / "delg", "--candidates", 2, "--rounds", 1, "--out", tmp_path / "g")
        answer = call("build", *usual, "--model", "affine", "--ratio", 0.9, "--min-similarity", 0.5)
        assert answer.exit_code == 0, answer.output
        fingerprint = json.loads((tmp_path / "g" / "pairs" / "store.json").read_text())["verifier"]
        expected = create_verifier("batched", model="affine", ratio=0.9, minimum_similarity=0.5)
        assert fingerprint == expected.fingerprint
        answer = call("build", *usual)
        assert answer.exit_code == 1
        assert "holds pairs of" in answer.stderr
        answer = call("build", *usual, "--backend", "best")
        assert answer.exit_code == 1
        assert "no verification backend 'best'; there are batched, opencv, reference" in answer.stderr
        answer = call("build", *usual, "--backend", "reference", "--ratio", 0.9)
        assert "reference has no option ratio" in answer.stderr

    def test_neighbour_lists(self, folder, toy, tmp_path):
        names = sorted(toy.INDEX)
        lists = np.full((18, 1), -1)
        lists[0], lists[6] = 1, 7
        np.savez(tmp_path / "knn.npz", ids=names, neighbours=lists)
        answer = call(
            *("build", folder / "delg", "--neighbours", tmp_path / "knn.npz", "--rounds", 1),
            *("--out", tmp_path / "g", "--json"),
        )
        assert json.loads(answer.stdout)["pairs"] == 2

    def test_lists_of_others(self, folder, tmp_path):
        assert call("export", folder / "g", tmp_path / "lists.egt").exit_code == 0
        (tmp_path / "queries.csv").write_text("id\ncastle/90\nmill/90\ntower/90\n")
        answer = call(
            *("build", "--lists", tmp_path / "lists.egt", "--queries", tmp_path / "queries.csv"),
            *(folder / "delg", folder / "queries.npz", "--out", tmp_path / "g"),
        )
        assert answer.exit_code == 0, answer.output
        assert "18 index images, 3 queries" in answer.stdout
        answer = call("rank", tmp_path / "g", "--ground-truth", folder / "gnd.json", "--json")
        table = json.loads(answer.stdout)["evaluation"]
        assert table["egt"]["easy"]["mAP"] == 100
        assert "aqe" in table

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "give feature files, or --lists"),
            (("--lists", __file__, "--exhaustive"), "are verified already"),
            ((__file__,), "its suffix is none of .delf"),
        ],
    )
    def test_wrong_use(self, tmp_path, arguments, message):
        answer = call("build", *arguments, "--out", tmp_path / "g")
        assert answer.exit_code in (1, 2)
        assert message in " ".join(answer.stderr.replace("│", " ").split())
        assert not (tmp_path / "g").exists()


class TestRank:
    def test_submission(self, folder, toy, tmp_path):
        answer = call("rank", folder / "g", "--out", tmp_path / "s.csv", "--limit", 6)
        assert answer.exit_code == 0, answer.output
        found = read_submission(tmp_path / "s.csv")
        assert list(found) == sorted(toy.QUERIES)
        for query, ranking in found.items():
            assert sorted(ranking) == [name for name in sorted(toy.INDEX) if name[:4] == query[:4]]

    def test_queries_by_name_as_json(self, folder, tmp_path):
        (tmp_path / "names.txt").write_text("mill/03.jpg\n\ncastle/90\n")
        answer = call(
            "rank", folder / "g", "--queries", tmp_path / "names.txt", "--method", "inliers", "--json"
        )
        found = json.loads(answer.stdout)
        assert found["method"] == "inliers"
        assert [ranking["query"] for ranking in found["rankings"]] == ["mill/03", "castle/90"]
        first = found["rankings"][0]["hits"]
        assert len(first) == 17
        assert first[0]["image"].startswith("mill/")
        assert first[0]["over"] == "mill/03"
        assert first[0]["score"] >= first[1]["score"]
        assert first[-1]["over"] is None

    def test_table(self, folder):
        answer = call("rank", folder / "g", "--ground-truth", folder)
        assert answer.exit_code == 0, answer.output
        assert "easy" in answer.stdout
        assert "hard" not in answer.stdout
        rows = [line.split() for line in answer.stdout.splitlines()]
        assert ["mmst-c", "100.0", "100.0"] in [row[:3] for row in rows]
        assert [row[0] for row in rows if row][-11:] == [
            *("global", "aqe", "alpha-qe", "dba", "k-reciprocal", "diffusion", "egt-cosine"),
            *("inliers", "egt", "id-qe", "mmst-c"),
        ]
        answer = call("rank", folder / "g", "--ground-truth", folder, "--method", "id-qe, global", "--json")
        assert list(json.loads(answer.stdout)["evaluation"]) == ["id-qe", "global"]

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            ((), 2, "nothing would be kept"),
            (("--method", "id-qe,global", "--json"), 2, "one method makes one submission"),
            (("--method", "best", "--json"), 1, "unknown method 'best'"),
            (("--out", "nowhere/s.csv"), 2, "there is no folder nowhere"),
        ],
    )
    def test_wrong_use(self, folder, arguments, code, message):
        answer = call("rank", folder / "g", *arguments)
        assert answer.exit_code == code
        assert message in " ".join(answer.stderr.replace("│", " ").split())

    def test_a_folder_without_graph(self, tmp_path):
        answer = call("stats", tmp_path)
        assert answer.exit_code == 1
        assert "holds no graph: make one with `landbridge graph build`" in " ".join(answer.stderr.split())


def test_cluster(folder, toy, tmp_path):
    answer = call("cluster", folder / "g", "--out", tmp_path / "c.csv")
    assert answer.exit_code == 0, answer.output
    assert "3 clusters of two images or more, the largest of 6; 0 images are alone." in answer.stdout
    with (tmp_path / "c.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "cluster"]
    assert rows == [[name, str(toy.LANDMARKS.index(name.partition("/")[0]))] for name in sorted(toy.INDEX)]
    answer = call("cluster", folder / "g", "--confidence", 1, "--json")
    assert json.loads(answer.stdout).keys() == toy.INDEX.keys()
    assert call("cluster", folder / "g").exit_code == 2


def test_stats(folder):
    facts = json.loads(call("stats", folder / "g", "--json").stdout)
    assert (facts["images"], facts["queries"], facts["components"]) == (18, 3, 3)
    assert facts["cluster_sizes"] == {"6-10": 3}
    text = call("stats", folder / "g").stdout
    assert ["midpoint", f"{facts['midpoint']:.2f}"] in [line.split() for line in text.splitlines()]
    assert "6-10: 3" in text


def test_export(folder, tmp_path):
    assert call("export", folder / "g", tmp_path / "g.graphml").exit_code == 0
    graph = nx.read_graphml(tmp_path / "g.graphml")
    assert len(graph) == 21
    assert call("export", folder / "g", tmp_path / "g.txt", "--format", "egt").exit_code == 0
    assert (tmp_path / "g.txt").read_text().startswith("castle/00,castle/01 ")
    answer = call("export", folder / "g", tmp_path / "g.svg")
    assert answer.exit_code == 1
    assert "no format 'svg'" in answer.stderr


def test_no_command_loads_milvus_or_torch(folder):
    code = (
        "import sys\n"
        "from landbridge import cli\n"
        "cli.app(['graph', 'rank', sys.argv[1], '--json'], standalone_mode=False)\n"
        "print([m for m in ('torch', 'pymilvus', 'milvus_lite') if m in sys.modules], file=sys.stderr)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(folder / "g")], capture_output=True, text=True, check=True
    )
    assert json.loads(process.stdout)["rankings"]
    assert process.stderr.strip() == "[]"
