"""The command line as a stranger meets it: what it prints where, what it writes, how it ends."""

import json
import re
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from landbridge import METHODS, cli
from landbridge.submission import read_recognition, read_submission

runner = CliRunner(env={"COLUMNS": "100", "MILVUS_URI": None})


def call(*arguments):
    return runner.invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def answers(world, indexed_world, landbridge, tmp_path_factory):
    """Every command on the rendered world, by name: `index` and `search` in processes of their own."""
    folder, first = indexed_world
    folder = shutil.copytree(folder, tmp_path_factory.mktemp("answers") / "work")
    query = sorted((world / "queries_cropped").iterdir())[0]
    bad = tmp_path_factory.mktemp("bad") / "queries"
    shutil.copytree(world / "queries_cropped", bad)
    (bad / "unreadable.jpg").write_text("no photo")
    uri = ["--uri", folder / "world.db"]
    submission = ["--out", folder / "s.csv", "--report", folder / "r.html"]
    figures = ["--collection", "landbridge", "--json", folder / "figures.json"]
    figures += ["--curves", folder / "curves.png"]
    answers = {
        "index": first,
        "index again": call("index", world / "jpg", *uri, "--json"),
        "info": call("info", *uri, "--json"),
        "search": landbridge("search", query, *uri, "--limit", 5, "--json", cwd=folder),
        "rank": call("rank", bad, *uri, *submission, "--json"),
        "evaluate": call("evaluate", world, *uri, *figures),
    }
    return folder, query, bad, answers


class TestEndToEnd:
    def test_stdout_is_json_and_progress_goes_to_stderr(self, answers):
        found = dict(answers[3])
        for name in ("index", "index again", "info", "search", "rank"):
            assert json.loads(found[name].stdout), name
        assert "extract" in found["index"].stderr
        assert "verify index photos" in found["index"].stderr
        assert "Traceback" not in "".join(answer.stderr for answer in found.values())
        processes = [found.pop(name) for name in ("index", "search")]
        assert [process.returncode for process in processes] == [0, 0]
        ends = {name: answer.exit_code for name, answer in found.items()}
        assert ends == {"index again": 0, "info": 0, "rank": 1, "evaluate": 0}

    def test_index(self, world, answers):
        _, _, _, found = answers
        photos = len(list((world / "jpg").iterdir()))
        assert json.loads(found["index"].stdout) == {
            "added": photos, "unchanged": 0, "failed": {}, "photos": photos,
            "verified_pairs": photos * (photos - 1) // 2,
        }  # fmt: skip
        assert json.loads(found["index again"].stdout) == {
            "added": 0, "unchanged": photos, "failed": {}, "photos": photos, "verified_pairs": 0,
        }  # fmt: skip

    def test_info(self, world, answers):
        _, _, _, found = answers
        photos = len(list((world / "jpg").iterdir()))
        info = json.loads(found["info"].stdout)
        assert (info["count"], info["joined"], info["backend"]) == (photos, photos, "milvus-lite")
        assert info["verified_pairs"] == photos * (photos - 1) // 2

    def test_search(self, answers):
        _, query, _, found = answers
        ranking = json.loads(found["search"].stdout)
        assert ranking["query_id"] == query.stem
        assert len(ranking["hits"]) == 5
        assert {hit["how"] for hit in ranking["hits"]} <= {"verified", "bridged", "similar"}
        assert ranking["hits"][0]["how"] == "verified"
        assert ranking["hits"][0]["chain"][0]["inliers"] >= 10

    def test_rank(self, world, answers):
        folder, query, bad, found = answers
        submission = read_submission(folder / "s.csv")
        index = {photo.stem for photo in (world / "jpg").iterdir()}
        assert list(submission) == sorted(photo.stem for photo in bad.iterdir())
        assert submission.pop("unreadable") == []
        assert all(set(ids) == index and len(ids) == len(index) for ids in submission.values())
        output = json.loads(found["rank"].stdout)
        ranked = {
            ranking["query_id"]: [hit["image_id"] for hit in ranking["hits"]]
            for ranking in output["rankings"]
        }
        assert ranked == submission
        assert list(output["failed"]) == [str(bad / "unreadable.jpg")]
        assert "1 queries were not answered:" in found["rank"].stderr
        assert "unreadable.jpg: not a photo in a format that is read" in found["rank"].stderr
        assert query.stem in (folder / "r.html").read_text()
        # The order of a query is the same alone.
        alone = [hit["image_id"] for hit in json.loads(found["search"].stdout)["hits"]]
        assert submission[query.stem][:5] == alone

    def test_evaluate(self, world, answers):
        folder, _, _, found = answers
        figures = json.loads((folder / "figures.json").read_text())
        photos = len(list((world / "jpg").iterdir()))
        assert (figures["dataset"], figures["queries"], figures["index"]) == ("world", 4, photos)
        assert list(figures["protocols"]) == ["easy", "medium", "hard"]
        table = found["evaluate"].stdout
        assert f"world: 4 queries, {photos} index photos" in table
        assert "Queries left out, which have too few positives: easy 1, medium 1, hard 1." in table
        assert "All queries pooled by confidence, those that match nothing too" in table
        for method in METHODS:
            row, recall, sure, recognised = re.findall(rf"^ *{method} .*$", table, re.MULTILINE)
            shown = [f"{value:.1f}" for value in figures["recognition"][method].values()]
            assert recognised.split() == [method, *shown]
            for protocol, methods in figures["protocols"].items():
                assert f"{methods[method]['mAP']:.1f}" in row
                assert f"{methods[method]['Recall@5']:.1f}" in recall
                assert f"{figures['pooled'][protocol][method]['area']:.1f}" in sure
        with Image.open(folder / "curves.png") as picture:
            assert picture.format == "PNG"
        gain = figures["protocols"]["hard"]["mmst-c"]["mAP"] - figures["protocols"]["hard"]["id-qe"]["mAP"]
        assert f"{gain:+.1f}" in re.findall(r"^ *mmst-c .*$", table, re.MULTILINE)[0]


class TestExitCodes:
    @pytest.fixture
    def bad(self, tmp_path):
        folder = tmp_path / "bad"
        folder.mkdir()
        Image.new("RGB", (64, 48)).save(folder / "cut.jpg")
        (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-100])
        (folder / "empty.jpg").touch()
        (folder / "text.jpg").write_text("no photo")
        return folder

    def check_bad(self, text):
        lines = {line.split(":")[0].split("/")[-1]: line for line in text.splitlines() if ".jpg: " in line}
        assert "damaged or truncated" in lines["cut.jpg"]
        assert "the file is empty" in lines["empty.jpg"]
        assert "not a photo in a format that is read" in lines["text.jpg"]

    def test_some_bad_photos(self, toy_photos, bad, tmp_path):
        shutil.move(bad, toy_photos / "bad")
        result = call("index", toy_photos, "--uri", tmp_path / "toy.db")
        assert result.exit_code == 0
        assert result.stdout.startswith("Photos: 8 added, 0 unchanged, 3 failed, 8 in ")
        assert "3 photos could not be added:" in result.stderr
        assert re.search(r"^extract .* 11/11 ", result.stderr, re.MULTILINE)
        self.check_bad(result.stderr)
        result = call("index", toy_photos, "--uri", tmp_path / "toy.db", "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["unchanged"] == 8
        assert len(json.loads(result.stdout)["failed"]) == 3

    def test_nothing_but_bad_photos(self, toy, bad, tmp_path):
        result = call("index", bad, "--uri", tmp_path / "toy.db")
        assert result.exit_code == 1
        self.check_bad(result.stderr)

    def test_no_photos(self, toy, tmp_path):
        (tmp_path / "empty").mkdir()
        for command in ("index", "rank"):
            options = ["--out", tmp_path / "s.csv"] if command == "rank" else []
            result = call(command, tmp_path / "empty", "--uri", tmp_path / "toy.db", *options)
            assert result.exit_code == 1
            assert "empty holds no photos" in result.stderr.replace("\n", " ")

    def test_queries_that_cannot_be_read(self, toy_photos, toy_index, bad, tmp_path):
        toy_index.close()
        shutil.copy(toy_photos / "castle/0.png", bad / "good.png")
        out = tmp_path / "s.csv"
        result = call("rank", bad, "--uri", tmp_path / "toy.db", "--out", out, "--limit", 3)
        assert result.exit_code == 1
        self.check_bad(result.stderr)
        assert result.stdout.startswith("1 of 4 queries ranked over 8 photos.\nWrote ")
        assert read_submission(out) == {
            "cut": [], "empty": [], "good": ["castle/0", "castle/1", "castle/2"], "text": [],
        }  # fmt: skip
        # The command ends with 0 when all are answered.
        result = call("rank", bad / "good.png", "--uri", tmp_path / "toy.db", "--out", out)
        assert result.exit_code == 0
        assert result.stderr.count("\n") <= 3
        result = call("search", bad / "empty.jpg", "--uri", tmp_path / "toy.db")
        assert result.exit_code == 1
        assert result.stderr.endswith("empty.jpg: the file is empty\n")

    def test_an_evaluation_with_a_photo_that_cannot_be_read(self, toy_photos, tmp_path):
        (toy_photos / "castle/3.png").write_text("no photo")
        arguments = ["evaluate", toy_photos, "--uri", tmp_path / "e.db", "--methods", "global"]
        result = call(*arguments, "--json", "-")
        assert result.exit_code == 1
        assert len(json.loads(result.stdout)["failed"]) == 1
        assert "3.png: not a photo" in result.stderr

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["search", "{}/missing.jpg"], "does not exist"),
            (["index", "{}/missing"], "does not exist"),
            (["rank", "{}/missing"], "does not exist"),
            (["evaluate", "{}/missing"], "does not exist"),
            (["demo", "--photos", "{}/missing"], "does not exist"),
            (["search", "{}"], "is a directory"),
            (["search", "{}/photo.png", "--method", "best"], "is none of global, aqe, verify, id-qe, mmst-c"),
            (["search", "{}/photo.png", "--limit", "0"], "Invalid value for '--limit'"),
            (["search", "{}/photo.png", "--colour"], "--colour"),
            (["rank", "{}", "--json", "--method", "best"], "'best' is none of"),
            (["rank", "{}"], "give --out, --landmarks, --report or --json, or nothing would be kept"),
            (["rank", "{}", "--json", "--labels", "{}/photo.png"], "is for --landmarks: give that too"),
            (["rank", "{}", "--landmarks", "{}/missing/s.csv"], "there is no folder"),
            (["evaluate", "{}", "--curves", "{}/missing/c.png"], "there is no folder"),
            (["rank", "{}", "--out", "{}/missing/s.csv"], "there is no folder"),
            (["evaluate", "{}", "--json", "{}/missing/s.json"], "there is no folder"),
            (["evaluate", "{}", "--methods", "global,best"], "'best' is none of"),
            (["evaluate", "{}", "--methods", ","], "'' is none of"),
            (["index"], "Missing argument"),
            (["find"], "No such command 'find'"),
        ],
    )  # fmt: skip
    def test_wrong_use(self, toy, tmp_path, arguments, message):
        toy.write_photo(tmp_path / "photo.png", [1])
        result = call(*(argument.format(tmp_path) for argument in arguments))
        assert result.exit_code == 2
        assert message in re.sub(r"[\s│]+", " ", result.stderr)
        assert result.stdout == ""
        assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["info", "--uri", "{}/none.db"], "there is no {}/none.db: index photos into it first"),
            (["search", "{}/photo.png", "--uri", "{}/none.db"], "there is no {}/none.db: index photos"),
            (["index", "{}/photo.png", "--uri", "{}/none"], "neither a path ending in .db nor an address"),
            (["evaluate", "{}", "--uri", "{}/none.db"], "has no ground truth, and no subfolder with two"),
            (["evaluate", "{}", "--uri", "{}/none.db", "--min-positives", "3"], "has no ground truth"),
            (["evaluate", "{}", "--radius", "10"], "has no CSV with the columns id and x, y or lat, lon"),
        ],
    )
    def test_what_failed_is_one_message(self, toy, tmp_path, arguments, message):
        toy.write_photo(tmp_path / "photo.png", [1])
        result = call(*(argument.format(tmp_path) for argument in arguments))
        assert result.exit_code == 1
        assert result.stderr.startswith("landbridge: ")
        assert message.format(tmp_path) in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
        assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]

    def test_a_result_that_cannot_be_written(self, toy_photos, toy_index, tmp_path, monkeypatch):
        toy_index.close()
        (tmp_path / "file").touch()
        arguments = ["--uri", tmp_path / "toy.db", "--report", tmp_path / "file/report.html"]
        result = call("rank", toy_photos / "castle/0.png", *arguments)
        assert result.exit_code == 1
        assert result.stderr.splitlines()[-1].startswith("landbridge: ")
        assert "Traceback" not in result.stderr


class TestOutput:
    def test_search_tells_how(self, toy, toy_index, tmp_path):
        toy_index.close()
        query = toy.write_photo(tmp_path / "query.png", [0, 1], 6)
        table = call("search", query, "--uri", tmp_path / "toy.db", "--limit", 5).stdout
        rows = [re.split(r"\s*│\s*", line.strip("│ ")) for line in table.splitlines() if line[:1] == "│"]
        assert [row[1] for row in rows] == [*(f"castle/{step}" for step in range(4)), rows[4][1]]
        assert [row[3] for row in rows] == [
            "verified, 120 inliers",
            "bridged over castle/0",
            "bridged over castle/0 → castle/1",
            "bridged over castle/0 → castle/1 → castle/2",
            "similar",
        ]

    def test_info(self, toy_index, tmp_path):
        toy_index.close()
        text = call("info", "--uri", tmp_path / "toy.db").stdout
        assert re.search(r"^ *count +8 *$", text, re.MULTILINE)
        assert re.search(r"^ *verified pairs +28 *$", text, re.MULTILINE)

    def test_the_uri_of_the_environment(self, toy_index, tmp_path):
        toy_index.close()
        result = runner.invoke(cli.app, ["info", "--json"], env={"MILVUS_URI": str(tmp_path / "toy.db")})
        assert json.loads(result.stdout)["count"] == 8

    def test_landmarks_of_queries(self, toy, toy_photos, toy_index, tmp_path):
        toy_index.close()
        toy.write_photo(tmp_path / "queries/gate.png", [0, 1], 6)
        toy.write_photo(tmp_path / "queries/spire.png", [20, 21], 6)
        (tmp_path / "queries/bad.png").touch()
        arguments = ["rank", tmp_path / "queries", "--uri", tmp_path / "toy.db"]
        result = call(*arguments, "--landmarks", tmp_path / "r.csv")
        assert result.exit_code == 1
        found = read_recognition(tmp_path / "r.csv")
        assert list(found) == ["bad", "gate", "spire"]
        assert found["bad"] is None
        assert (found["gate"].label, found["spire"].label) == ("castle", "tower")
        assert min(found["gate"].confidence, found["spire"].confidence) > 0.9
        # Other names, from a table; the towers have none.
        names = "".join(f"castle/{n},1066\ntower/{n},\n" for n in range(4))
        (tmp_path / "labels.csv").write_text(f"id,landmark_id\n{names}")
        call(*arguments, "--landmarks", tmp_path / "r.csv", "--labels", tmp_path / "labels.csv")
        found = read_recognition(tmp_path / "r.csv")
        assert (found["gate"].label, found["spire"]) == ("1066", None)

    def test_offline_queries_are_bridges(self, toy, tmp_path):
        for step, name in enumerate("abc"):
            folder = "queries" if name != "c" else "photos"
            toy.write_photo(tmp_path / f"{folder}/{name}.png", range(2 * step, 2 * step + 4), step)
        uri = tmp_path / "toy.db"
        call("index", tmp_path / "photos", "--uri", uri)
        how = {}
        for mode in ("online", "offline"):
            output = call("rank", tmp_path / "queries", "--uri", uri, f"--{mode}", "--json").stdout
            first = json.loads(output)["rankings"][0]
            assert first["query_id"] == "a"
            how[mode] = first["hits"][0]["how"]
        assert how == {"online": "similar", "offline": "bridged"}

    def test_demo(self, toy_photos, tmp_path):
        result = call("demo", "--photos", toy_photos, "--out", tmp_path / "demo")
        assert result.exit_code == 0
        assert all(re.search(rf"^ *{method} ", result.stdout, re.MULTILINE) for method in METHODS)
        assert "8 photos, " in result.stdout
        assert "Subfolders taken for one landmark each: castle, tower." in result.stdout
        assert (tmp_path / "demo/report.html").exists()
        result = call("demo", "--photos", toy_photos, "--out", tmp_path / "demo", "--json")
        assert json.loads(result.stdout)["report"] == str(tmp_path / "demo/report.html")

    @pytest.mark.parametrize("command", ["index", "search", "rank", "evaluate", "demo", "info"])
    def test_help(self, command):
        text = call(command, "--help").stdout
        assert len(text.splitlines()) > 10
        assert max(map(len, text.splitlines())) <= 100
        options = ["--json"] + ([] if command == "demo" else ["--uri", "--collection", "--token", "--db"])
        assert all(option in text for option in options)

    def test_help_of_all(self):
        text = call("--help").stdout
        assert all(
            f" {command} " in text for command in ("index", "search", "rank", "evaluate", "demo", "info")
        )
        assert "Exit codes: 0 done, 1 failed or a query was not answered, 2 wrong use." in text

    def test_the_methods_are_those_of_the_library(self):
        assert cli.METHODS == METHODS
