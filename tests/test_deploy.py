"""What lies in deploy/ fits the program: settings, units, containers, manifests, figures."""

from __future__ import annotations

import asyncio
import fnmatch
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import kubernetes_validate
import pytest
import sqlalchemy as sa
import typer
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from sqlalchemy.engine import make_url
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route as Endpoint

from bench.loopback import served
from bots.metrics import Metrics
from bots.web.api import ApiOptions, create_api
from core.backup import KEPT_DAYS
from core.gauges import Gauges
from core.gpu import GpuCollector
from core.messages import Outcome, Platform, Rating, Reply, Timings, Winner
from core.registry import RECONCILE_SECONDS, ROUTE_SECONDS
from core.routes import Route
from core.settings import Secrets, load_settings
from core.store import Store
from core.tables import duels
from solemate import app
from tests.bots.desks import running_desk
from training.llamafactory import known_models, recipe
from training.servers.proxy import Keys, Upstream, door

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
DOCKERFILES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
NOON = 1_767_182_400
KUBERNETES = "1.31"
# Some of vLLM's figures; that the embedded server has them too is tested beside it.
MODEL_PAGE = """
vllm:num_requests_running{model_name="solemate"} 1
vllm:num_requests_waiting{model_name="solemate"} 0
vllm:prompt_tokens_total{model_name="solemate"} 100
vllm:generation_tokens_total{model_name="solemate"} 30
vllm:time_to_first_token_seconds_bucket{model_name="solemate",le="0.1"} 1
vllm:time_to_first_token_seconds_bucket{model_name="solemate",le="+Inf"} 2
"""
# Some of dcgm-exporter's figures, as its default-counters.csv has them.
CARDS_PAGE = "".join(
    f'{name}{{gpu="0",modelName="NVIDIA A100-PCIE-40GB",Hostname="a100"}} {value}\n'
    for name, value in {
        "DCGM_FI_DEV_GPU_UTIL": 80,
        "DCGM_FI_DEV_GPU_TEMP": 60,
        "DCGM_FI_DEV_FB_USED": 30000,
        "DCGM_FI_DEV_FB_FREE": 10000,
    }.items()
)


def tool(name: str) -> str:
    """The path of a program that need not be installed, except where everything is checked."""
    found = shutil.which(name)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def output(*command: str | Path, cwd: Path = ROOT, **changes: str) -> str:
    """What a command prints; the test fails with it when the command does."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **changes},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def identifier(path: Path) -> str:
    return path.name


# --- settings ---


@pytest.mark.parametrize("name", ["production", "workstation"])
def test_a_profile_s_settings_fit_each_other(name: str) -> None:
    settings = load_settings(profile=name, environment={})
    recipe = ROOT / "training" / "recipes" / "models" / f"{settings.training.recipe}.yaml"
    trained = yaml.safe_load(recipe.read_text("utf-8"))
    cutoffs = {part["cutoff_len"] for part in trained.values() if "cutoff_len" in part}
    assert cutoffs == {settings.model.context_tokens}
    assert settings.model.max_tokens < settings.model.context_tokens
    assert settings.retrieval.embedding_model == "BAAI/bge-large-zh-v1.5"
    assert settings.vision.model == "openai/clip-vit-large-patch14"
    assert (settings.retrieval.device, settings.vision.device) == ("cuda", "cuda")
    # The shipped adapter belongs to the shipped model.
    assert (settings.model.embedded, settings.model.adapter) == (False, "")


def test_the_embedded_profile_is_the_defaults() -> None:
    assert load_settings(profile="embedded", environment={}) == load_settings(environment={})


def test_doctor_says_what_the_production_profile_lacks_before_anything_is_downloaded(
    tmp_path: Path,
) -> None:
    # No cache, no network, no card, nobody at the tunnel's ends.
    own = {
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state"),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{tmp_path}/s.db",
        "SOLEMATE__LOGGING__FILE": str(tmp_path / "log"),
        "SOLEMATE__MODEL__BASE_URL": f"http://127.0.0.1:{free_port()}/v1",
        "SOLEMATE__TRAINING__RAY_ADDRESS": f"http://127.0.0.1:{free_port()}",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(tmp_path / "hub"),
        "HTTPS_PROXY": f"http://127.0.0.1:{free_port()}",
    }
    done = subprocess.run(
        [sys.executable, "-m", "solemate", "doctor", "--profile", "production", "--json"],
        cwd=ROOT,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = {one["part"]: one for one in json.loads(done.stdout)}
    assert "not here yet" in found["embeddings"]["found"]
    assert "not here yet" in found["vision"]["found"]
    assert found["device"]["health"] == found["model"]["health"] == "ill"
    assert found["training"]["health"] == "ill"
    assert "tunnel" in found["training"]["advice"]
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", ["production", "workstation"])
def test_a_profile_says_only_what_differs(name: str) -> None:
    usual = tomllib.loads((ROOT / "config.toml").read_text("utf-8"))
    chosen = tomllib.loads((DEPLOY / "profiles" / f"{name}.toml").read_text("utf-8"))
    same = [
        f"{section}.{key}"
        for section, keys in chosen.items()
        for key, value in keys.items()
        if usual[section][key] == value and key != "base_model"
    ]
    assert same == []


def settings_files() -> list[Path]:
    kinds = ("*.service", "*.example", "*.Dockerfile", "*.yaml", "solemate-admin")
    files = [path for kind in kinds for path in DEPLOY.rglob(kind)]
    return [path for path in files if "SOLEMATE_" in path.read_text("utf-8")]


@pytest.mark.parametrize("path", settings_files(), ids=identifier)
def test_every_variable_that_is_set_is_a_setting(path: Path) -> None:
    text = path.read_text("utf-8")
    found = re.findall(r"\b(SOLEMATE_[A-Z_]+)[=:][ ]?([^\s\\]*)", text)
    assert found
    load_settings(environment={name: value.strip("\"'") for name, value in found})


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.example")), ids=identifier)
def test_every_secret_that_is_asked_for_is_read_by_somebody(path: Path) -> None:
    others = {"PGPASSWORD", "POSTGRES_PASSWORD", "GRAFANA_PASSWORD", "RAY_AUTH_TOKEN", "HF_TOKEN"}
    names = set(re.findall(r"^([A-Z_]+)=", path.read_text("utf-8"), re.MULTILINE))
    assert {name for name in names if not name.startswith("SOLEMATE_")} <= {
        *Secrets.model_fields,
        *others,
    }


# --- systemd ---


@pytest.mark.parametrize(
    "unit", [*UNITS, DEPLOY / "systemd" / "solemate-backup.timer"], ids=identifier
)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    for other in (DEPLOY / "systemd").glob("solemate*"):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", other.read_text(), flags=re.M)
        (tmp_path / other.name).write_text(text)
    said = output(analyze, "verify", "--man=no", "--recursive-errors=no", tmp_path / unit.name)
    assert [line for line in said.splitlines() if unit.name in line] == []


@pytest.mark.parametrize("unit", UNITS, ids=identifier)
def test_a_unit_calls_what_there_is(unit: Path) -> None:
    text = unit.read_text("utf-8")
    for arguments in re.findall(r"^ExecStart=\S+/solemate (.*)", text, re.MULTILINE):
        check_command(arguments.split())
    assert "User=solemate" in text
    assert "NoNewPrivileges=yes" in text


@pytest.mark.parametrize("unit", UNITS, ids=identifier)
def test_a_unit_has_a_place_for_temporary_files(unit: Path) -> None:
    # Without it ProtectSystem leaves none that can be written, and nothing of torch or Ray starts.
    lines = unit.read_text("utf-8").splitlines()
    assert "ProtectSystem=strict" in lines
    assert "PrivateTmp=yes" in lines


def check_command(arguments: Sequence[str]) -> None:
    """Fail unless the command line knows the command, or group of them, and its options."""
    command: Any = typer.main.get_command(app)
    words = list(arguments)
    known = {option for parameter in command.params for option in parameter.opts}
    while words and hasattr(command, "commands"):
        if words[0].startswith("--"):
            assert words[0] in known, arguments
            del words[:2]
            continue
        assert words[0] in command.commands, arguments
        command = command.commands[words.pop(0)]
        known |= {option for parameter in command.params for option in parameter.opts}
    # What comes after -- is for vLLM.
    ours = words[: words.index("--")] if "--" in words else words
    assert {one for one in ours if one.startswith("--")} <= known, arguments


@pytest.mark.parametrize(
    "document", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=identifier
)
def test_a_document_names_only_commands_that_there_are(document: Path) -> None:
    text = document.read_text("utf-8")
    said = re.findall(r"`solemate(?:-admin)? ([^`]+)`", text.replace("\n", " "))
    for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        said += re.findall(r"^(?:\S*/)?solemate(?:-admin)? ([^#&|\n]+)", block, re.MULTILINE)
    assert said
    for words in said:
        # `runs list|show` stands for both, and [--option] for one that need not be given.
        for several in itertools.product(
            *(one.strip("[]").replace("\\|", "|").split("|") for one in words.split())
        ):
            check_command(several)


# --- containers ---


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", " ", dockerfile.read_text("utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=identifier)
def test_what_an_image_copies_is_there_and_sent(dockerfile: Path) -> None:
    rules = dockerfile.with_name(f"{dockerfile.name}.dockerignore").read_text().split()
    for name, rest in instructions(dockerfile):
        if name != "COPY":
            continue
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists(), source
            sent = False
            for rule in rules:
                if fnmatch.fnmatch(source, rule.removeprefix("!")):
                    sent = rule.startswith("!")
            assert sent, source


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=identifier)
def test_an_image_runs_as_nobody_special_and_can_be_asked_how_it_is(dockerfile: Path) -> None:
    steps = instructions(dockerfile)
    assert [rest for name, rest in steps if name == "USER"][-1] == "10001"
    assert all(":" in rest and "latest" not in rest for name, rest in steps if name == "FROM")
    assert any(name == "HEALTHCHECK" for name, _ in steps)
    for name, rest in steps:
        if name in ("ENTRYPOINT", "CMD"):
            assert json.loads(rest), "a shell would not hand signals on"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "docker" / "compose.yaml").read_text("utf-8"))
    return loaded


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_takes_its_files(name: str, tmp_path: Path) -> None:
    """As `docker compose config` would, by the schema of https://github.com/compose-spec."""
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    file = DEPLOY / "docker" / name
    checked = subprocess.run([*check, file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    wrong = tmp_path / name
    wrong.write_text(file.read_text("utf-8").replace("services:", "service:"), "utf-8")
    assert subprocess.run([*check, wrong], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=identifier)
def test_an_image_starts_a_command_there_is(dockerfile: Path) -> None:
    steps = dict(instructions(dockerfile))
    started = json.loads(steps["ENTRYPOINT"]) + json.loads(steps["CMD"])
    check_command(started[started.index("solemate") + 1 :])


def test_every_variable_of_our_containers_is_read_by_somebody(compose: dict[str, Any]) -> None:
    known = {*Secrets.model_fields, "PGPASSWORD", "RAY_AUTH_TOKEN"}
    given = {
        name: {*service.get("environment", ())}
        for name, service in compose["services"].items()
        if service["image"].startswith("solemate-")
    }
    for document in WORKLOADS:
        for one in containers(document):
            named_in_arguments = set(re.findall(r"\$\((\w+)\)", " ".join(one.get("args", ()))))
            variables = {variable["name"] for variable in one.get("env", ())}
            given[named(document)] = variables - named_in_arguments
    for name, variables in given.items():
        ours = {one for one in variables if not one.startswith("SOLEMATE_")}
        assert ours <= known, name


def test_a_secret_s_key_is_called_as_what_it_sets() -> None:
    for document in WORKLOADS:
        for one in (one for container in containers(document) for one in container.get("env", ())):
            if "valueFrom" in one:
                assert one["valueFrom"]["secretKeyRef"] == {"name": "solemate", "key": one["name"]}


def test_compose_names_only_what_exists(compose: dict[str, Any]) -> None:
    folder = DEPLOY / "docker"
    for name, service in compose["services"].items():
        if build := service.get("build"):
            assert (folder / build["context"] / build["dockerfile"]).is_file(), name
        assert set(service.get("depends_on", ())) <= set(compose["services"])
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (folder / source).is_dir(), source


def test_compose_shows_nothing_to_other_machines_and_limits_everything(
    compose: dict[str, Any],
) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["mem_limit"], name
        image = service["image"]
        assert "build" in service or image.startswith("solemate-") or ":" in image, name
        assert not image.endswith(":latest")


def cards_of(service: Mapping[str, Any]) -> list[str]:
    """The devices that a service reserves, as they are written."""
    reserved = service.get("deploy", {}).get("resources", {}).get("reservations", {})
    return [card for device in reserved.get("devices", ()) for card in device.get("device_ids", ())]


def test_no_two_servers_get_the_same_card_by_chance(compose: dict[str, Any]) -> None:
    services = compose["services"]
    model, trainer = cards_of(services["model"]), cards_of(services["trainer"])
    assert (model, trainer) == (["${MODEL_CARD:-0}"], ["${TRAINER_CARD:-1}"])
    told = (DEPLOY / "docker" / ".env.example").read_text("utf-8")
    assert {"MODEL_CARD", "TRAINER_CARD", "ENGINE_CARD"} <= set(re.findall(r"# ([A-Z_]+)=", told))


def test_an_engine_with_a_card_is_built_for_it(compose: dict[str, Any]) -> None:
    laid_over = yaml.safe_load((DEPLOY / "docker" / "compose.gpu.yaml").read_text("utf-8"))
    assert laid_over["services"].keys() <= compose["services"].keys()
    engine = laid_over["services"]["engine"]
    assert cards_of(engine) == ["${ENGINE_CARD:-0}"]
    image = instructions(DEPLOY / "docker" / "engine.Dockerfile")
    usual = dict(rest.split("=", 1) for name, rest in image if name == "ARG")
    arguments = engine["build"]["args"]
    assert arguments.keys() <= usual.keys()
    extras = set(re.findall(r"--extra ([\w-]+)", arguments["EXTRAS"]))
    assert extras >= set(re.findall(r"--extra ([\w-]+)", usual["EXTRAS"])) - {"serve-cpu"}
    assert "gpu" in extras


def test_prometheus_looks_at_services_that_there_are(compose: dict[str, Any]) -> None:
    written = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    targets = {
        job["job_name"]: target
        for job in written["scrape_configs"]
        for one in job["static_configs"]
        for target in one["targets"]
    }
    assert targets.keys() == {"solemate", "model", "node", "gpu"}
    assert {target.split(":")[0] for target in targets.values()} <= compose["services"].keys()


def test_containers_make_a_backup_every_night(compose: dict[str, Any]) -> None:
    backup = compose["services"]["backup"]
    assert "profiles" not in backup
    (program,) = backup["command"]
    (arguments,) = re.findall(r"solemate (.*?);", program)
    check_command(arguments.split())
    (until,) = re.findall(r"sleep (.*?);", program)
    seconds = output("sh", "-c", f"echo {until.replace('$$', '$')}", TZ="UTC")
    then = time.gmtime(time.time() + int(seconds))
    assert (then.tm_hour, then.tm_min) == (3, 30)
    assert 0 < int(seconds) <= 86400


def test_containers_are_started_with_commands_there_are() -> None:
    for document in manifests():
        for container in containers(document):
            arguments = container.get("args", ["up"])
            if container["image"] == "solemate-engine":
                check_command(arguments)
            elif arguments[0] == "solemate":
                check_command(arguments[1:])


@pytest.mark.parametrize("name", known_models())
def test_the_server_s_image_has_what_a_recipe_asks_for(name: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    image = (DEPLOY / "docker" / "server.Dockerfile").read_text("utf-8")
    installed = [one for extra in re.findall(r"--extra ([\w-]+)", image) for one in extras[extra]]
    keys = recipe("dpo", {}, model=name)
    needed = {"llamafactory"}
    needed |= {"deepspeed"} if "deepspeed" in keys else set()
    needed |= {"bitsandbytes"} if "quantization_bit" in keys else set()
    assert needed <= {re.split("[=<>]", one)[0] for one in installed}


def test_ray_lets_a_job_wait_for_a_card_longer_than_a_training_takes() -> None:
    training = load_settings(profile="production", environment={}).training
    for name in ("systemd/solemate-ray.service", "docker/server.Dockerfile"):
        found = re.search(
            r"RAY_JOB_START_TIMEOUT_SECONDS=(\d+)", (DEPLOY / name).read_text("utf-8")
        )
        assert found, name
        assert int(found[1]) > training.timeout_minutes * 60


def test_what_makes_a_backup_sees_all_that_is_kept(compose: dict[str, Any]) -> None:
    kept = {"/state", "/state/adapters", "/state/runs", "/backups"}
    volumes = compose["services"]["backup"]["volumes"]
    assert kept <= {volume.split(":")[1] for volume in volumes}
    by_name = {one["name"]: one for document in WORKLOADS for one in containers(document)}
    for name in ("backup", "restore"):
        assert kept <= {mount["mountPath"] for mount in by_name[name]["volumeMounts"]}


# --- Kubernetes ---


def manifests() -> list[dict[str, Any]]:
    files = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
    return [
        document
        for file in files
        if file.name != "kustomization.yaml"
        for document in yaml.safe_load_all(file.read_text("utf-8"))
    ]


def named(document: Mapping[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def template(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The pods that a document makes."""
    spec = document.get("spec", {})
    found: dict[str, Any] | None = spec.get("jobTemplate", {}).get("spec", spec).get("template")
    return found


def containers(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    pods = template(document)
    return list(pods["spec"]["containers"]) if pods else []


MANIFESTS = manifests()
WORKLOADS = [document for document in MANIFESTS if template(document)]


@pytest.mark.parametrize("document", MANIFESTS, ids=named)
def test_kubernetes_takes_the_manifest(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_an_unknown_key_in_a_manifest_would_be_noticed() -> None:
    wrong = {**MANIFESTS[0], "speck": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES, strict=True)


KUSTOMIZATIONS = sorted((DEPLOY / "kubernetes").rglob("kustomization.yaml"))


@pytest.mark.parametrize("file", KUSTOMIZATIONS, ids=lambda file: file.parent.name)
def test_every_manifest_is_applied(file: Path) -> None:
    applied = yaml.safe_load(file.read_text())["resources"]
    assert {*applied, file.name} == {one.name for one in file.parent.glob("*.yaml")}


def test_an_image_has_one_name_wherever_it_is_applied() -> None:
    images: dict[str, set[str]] = {}
    for file in KUSTOMIZATIONS:
        for image in yaml.safe_load(file.read_text())["images"]:
            images.setdefault(image["name"], set()).add(json.dumps(image))
    assert {name: len(found) for name, found in images.items()} == dict.fromkeys(images, 1)


def test_a_restore_is_never_applied_with_the_rest_nor_tried_twice() -> None:
    (job,) = (one for one in MANIFESTS if one["kind"] == "Job")
    assert named(job) == "Job/restore"
    whole = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    assert not any("restore" in one for one in whole["resources"])
    assert job["spec"]["backoffLimit"] == 0
    (container,) = containers(job)
    command, file = container["args"]
    variables = {one["name"] for one in container["env"]}
    assert command == "restore"
    assert set(re.findall(r"\$\((\w+)\)", file)) <= variables


@pytest.mark.parametrize("document", WORKLOADS, ids=named)
def test_a_pod_is_limited_and_has_no_rights(document: dict[str, Any]) -> None:
    pods = template(document)
    assert pods
    spec = pods["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    for container in spec["containers"]:
        limits, requests = (container["resources"][kind] for kind in ("limits", "requests"))
        assert {"cpu", "memory"} <= limits.keys() & requests.keys()
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    "document", [one for one in WORKLOADS if one["kind"] == "Deployment"], ids=named
)
def test_a_service_is_probed_at_a_port_it_has(document: dict[str, Any]) -> None:
    for container in containers(document):
        ports = {port["name"] for port in container["ports"]}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container[kind]
            if "exec" in probe:
                program, file = probe["exec"]["command"]
                assert program == "python"
                assert (ROOT / Path(file).relative_to("/app")).is_file()
            else:
                assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in ports


@pytest.mark.parametrize(("key", "well"), [("right", True), ("wrong", False), ("", False)])
async def test_a_container_asks_its_model_server_with_the_key(key: str, well: bool) -> None:
    script = (DEPLOY / "docker" / "healthy.py").read_text("utf-8")
    upstream = Starlette(routes=[Endpoint("/health", lambda _: Response())])
    async with (
        served(upstream) as address,
        door(Upstream(address), Keys("right"), "127.0.0.1", 0) as url,
    ):
        own = {**os.environ, "MODEL_API_KEY": key, "http_proxy": "http://127.0.0.1:9"}
        here = script.replace("http://127.0.0.1:8000", url.removesuffix("/v1"))
        asking = await asyncio.create_subprocess_exec(
            sys.executable, "-c", here, env=own, stderr=asyncio.subprocess.DEVNULL
        )
        assert (await asking.wait() == 0) is well


def test_what_manifests_refer_to_is_there() -> None:
    claims = {
        one["metadata"]["name"] for one in MANIFESTS if one["kind"] == "PersistentVolumeClaim"
    }
    used = set()
    for document in WORKLOADS:
        pods = template(document)
        assert pods
        volumes = {volume["name"]: volume for volume in pods["spec"]["volumes"]}
        for container in containers(document):
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        used |= {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes.values()
            if "persistentVolumeClaim" in volume
        }
    assert used == claims
    for service in (one for one in MANIFESTS if one["kind"] == "Service"):
        assert selected(service["spec"]["selector"]), named(service)


def test_what_several_engines_share_is_there() -> None:
    by_name = {named(one): one for one in MANIFESTS}
    engine = by_name["Deployment/engine"]["spec"]
    assert engine["replicas"] > 1
    settings = load_settings(environment=by_name["ConfigMap/solemate"]["data"])
    assert settings.database.url.startswith("postgresql")
    assert settings.redis.url
    image = instructions(DEPLOY / "docker" / "engine.Dockerfile")
    assert any(name == "ARG" and "--extra redis" in rest for name, rest in image)
    # What is not mounted by all of them would be another one's secrets.
    for volume in engine["template"]["spec"]["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            spec = by_name[f"PersistentVolumeClaim/{claim['claimName']}"]["spec"]
            assert spec["accessModes"] == ["ReadWriteMany"]
    rules = by_name["NetworkPolicy/engine"]["spec"]["egress"]
    ports = {one["port"] for rule in rules for one in rule["ports"]}
    assert {
        make_url(settings.database.url).port or 5432,
        urlsplit(settings.redis.url).port,
    } <= ports


def selected(labels: Mapping[str, str]) -> list[str]:
    """The workloads whose pods have these labels."""
    return [
        named(document)
        for document in WORKLOADS
        if labels.items() <= (template(document) or {})["metadata"]["labels"].items()
    ]


def test_nobody_talks_to_anybody_but_where_it_is_said() -> None:
    policies = [one["spec"] for one in MANIFESTS if one["kind"] == "NetworkPolicy"]
    nobody = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    assert nobody in policies
    own = [policy for policy in policies if policy["podSelector"]]
    for document in WORKLOADS:
        component = document["metadata"]["labels"]["app.kubernetes.io/component"]
        chosen = {"matchLabels": {"app.kubernetes.io/component": component}}
        assert sum(policy["podSelector"] == chosen for policy in own) == 1, component
    assert all(selected(policy["podSelector"]["matchLabels"]) for policy in own)


@pytest.mark.parametrize(("server", "port"), [("model", "http"), ("trainer", "jobs")])
def test_only_the_engine_and_who_measures_reach_a_server(server: str, port: str) -> None:
    policy = next(one["spec"] for one in MANIFESTS if named(one) == f"NetworkPolicy/{server}")
    (rule,) = policy["ingress"]
    assert [one["port"] for one in rule["ports"]] == [port]
    pods = [peer["podSelector"] for peer in rule["from"] if "podSelector" in peer]
    assert pods == [{"matchLabels": {"app.kubernetes.io/component": "engine"}}]
    spaces = [peer["namespaceSelector"] for peer in rule["from"] if "namespaceSelector" in peer]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    assert spaces == ([monitoring] if server == "model" else [])


# --- figures ---


def queries(dashboard: Path) -> list[str]:
    board = json.loads(dashboard.read_text("utf-8"))
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def names_in(query: str) -> set[str]:
    ours = r"\b(?:up\b|(?:solemate|process|node|vllm|DCGM)[_:][a-z0-9_A-Z]+)"
    return set(re.findall(ours, query))


def engine_page(state: Path) -> str:
    """The engine's page after one of everything but duels."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    timings = Timings(vision=0.1, retrieval=0.01, first_token=0.2, model=0.8, total=0.9)
    for outcome in Outcome:
        reply = Reply("r", "c", "好", outcome, "zh", adapter="v1", timings=timings)
        metrics.answered(Platform.WEB, reply)
    metrics.failed(Platform.WEB)
    for rating in Rating:
        metrics.rated(rating)
    for status in (200, 503):
        metrics.served("/chat", status)
    metrics.took("/chat", 0.3)
    metrics.waiting(1, 2.0)
    states = {"rejected": 1, "awaiting_approval": 1, "promoted": 2}
    verdicts = {("v1", "up"): 3, ("v1", "down"): 1}
    metrics.holds(Gauges(0, 7, verdicts, {"accepted": 5}, states))
    metrics.watch_route(lambda: Route("v1", canary="v2", share=0.05))
    metrics.watch_adapters(lambda: {("http://model:8000/v1", "v1"): True})
    metrics.watch_platform(Platform.TELEGRAM, lambda: "", lambda: 3.0)
    metrics.watch_machine(state)
    registry.register(GpuCollector(OneCard()))
    return metrics.render().decode()


async def page_after_duels(folder: Path) -> str:
    """What an engine says after five duels between the adapters `solemate` and `v2`."""
    asked = ApiOptions("solemate", 200, "http://127.0.0.1:8080", ())
    winners = (Winner.FIRST, Winner.FIRST, Winner.SECOND, Winner.NEITHER, None)
    async with running_desk(folder) as desk:
        transport = httpx.ASGITransport(create_api(desk, parts={}, options=asked))
        async with httpx.AsyncClient(transport=transport, base_url=asked.public_url) as http:
            for number, winner in enumerate(winners):
                question = {"message": "How do I wash canvas shoes?"}
                reply = (await http.post("/chat", json=question)).json()["message_id"]
                duel = {"id": str(number), "reply_id": reply, "user_id": "api:ann", "text": "Dry."}
                duel |= {"adapter": "v2", "winner": winner, "created_at": time.time()}
                await desk.store.run(partial(_insert, table=duels, row=duel))
            return (await http.get("/metrics")).text


def _insert(connection: sa.Connection, table: sa.Table, row: Mapping[str, Any]) -> None:
    connection.execute(sa.insert(table).values(row))


class OneCard:
    """NVML of a machine with one card."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError = RuntimeError

    def __getattr__(self, name: str) -> Any:
        answers = {
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": 0,
            "nvmlDeviceGetName": "A100",
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=80),
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=3, total=4),
            "nvmlDeviceGetTemperature": 60,
        }
        return lambda *_: answers[name]


@contextmanager
def started(ready: str, *command: str | Path) -> Iterator[None]:
    """A server that has said that it is ready."""
    process = subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if ready in line:
                break
        assert ready in "".join(said[-1:]), "".join(said)
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def node_page() -> str:
    exporter, port = tool("prometheus-node-exporter"), free_port()
    with started("Listening on", exporter, f"--web.listen-address=127.0.0.1:{port}"):
        return httpx.get(f"http://127.0.0.1:{port}/metrics").text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


def samples(page: str) -> list[Sample]:
    return [one for family in text_string_to_metric_families(page) for one in family.samples]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, node_page: str) -> dict[str, list[Sample]]:
    """What each of Prometheus' jobs finds, by job."""
    folder = tmp_path_factory.mktemp("state")
    dueling = samples(asyncio.run(page_after_duels(folder)))
    about_duels = [one for one in dueling if one.name.startswith("solemate_duel")]
    return {
        "solemate": samples(engine_page(folder)) + about_duels,
        "model": samples(MODEL_PAGE),
        "node": samples(node_page),
        "gpu": samples(CARDS_PAGE),
    }


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=identifier)
def test_a_dashboard_asks_only_for_figures_that_are_exported(
    dashboard: Path, exported: dict[str, list[Sample]]
) -> None:
    known = {one.name for found in exported.values() for one in found} | {"up"}
    for query in queries(dashboard):
        assert names_in(query), query
        assert names_in(query) <= known, query


def test_the_alerts_watch_only_figures_that_are_exported(
    exported: dict[str, list[Sample]],
) -> None:
    known = {one.name for found in exported.values() for one in found} | {"up"}
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        assert names_in(rule["expr"]) <= known, rule["alert"]


@pytest.mark.parametrize(
    "check",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint-fatal", "alerts.yml"),
        ("test", "rules", "alerts.test.yml"),
    ],
    ids=["config", "rules", "alerts"],
)
def test_prometheus_takes_its_files(check: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    secret = tmp_path / "secret"
    secret.touch()
    written = (tmp_path / "prometheus.yml").read_text("utf-8")
    here = written.replace("/run/secrets/model_api_key", str(secret))
    (tmp_path / "prometheus.yml").write_text(here, "utf-8")
    output(tool("promtool"), *check, cwd=tmp_path)


def test_a_server_that_lacks_an_adapter_is_told_of_within_15_seconds() -> None:
    folder = DEPLOY / "prometheus"
    jobs = yaml.safe_load((folder / "prometheus.yml").read_text("utf-8"))["scrape_configs"]
    (looked,) = (one["scrape_interval"] for one in jobs if one["job_name"] == "solemate")
    groups = yaml.safe_load((folder / "alerts.yml").read_text("utf-8"))["groups"]
    ((group, rule),) = (
        (group, rule)
        for group in groups
        for rule in group["rules"]
        if rule["alert"] == "AdapterMissing"
    )
    assert "for" not in rule
    waits = [float(one.removesuffix("s")) for one in (looked, group["interval"])]
    assert RECONCILE_SECONDS + sum(waits) < 15
    # The engine counts its own seconds in steps of these.
    assert RECONCILE_SECONDS % ROUTE_SECONDS == 0


def test_prometheus_has_the_key_that_the_model_server_asks_for(compose: dict[str, Any]) -> None:
    written = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    (file,) = (
        job["authorization"]["credentials_file"]
        for job in written["scrape_configs"]
        if "authorization" in job
    )
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert file == f"/run/secrets/{secret}"
    assert compose["secrets"][secret] == {"environment": "MODEL_API_KEY"}


@pytest.fixture(scope="module")
def prometheus(
    exported: dict[str, list[Sample]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """A Prometheus that has looked at everything for an hour until `NOON`."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "history").write_text(history(exported), encoding="utf-8")
    output(
        tool("promtool"),
        *("tsdb", "create-blocks-from", "openmetrics", folder / "history", folder / "data"),
    )
    (folder / "empty.yml").write_text("")
    address = f"127.0.0.1:{free_port()}"
    with (
        started(
            "Server is ready",
            tool("prometheus"),
            f"--config.file={folder / 'empty.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address={address}",
        ),
        httpx.Client(base_url=f"http://{address}/api/v1") as client,
    ):
        yield client


def history(exported: dict[str, list[Sample]]) -> str:
    """An hour of looks, a minute apart, as OpenMetrics; whatever can grow does.

    Two engines share a database, and say the same of what is in it.
    """
    series: dict[str, list[str]] = {}
    instances = [*((job, f"{job}:1") for job in exported), ("solemate", "solemate:2")]
    for job, instance in instances:
        up = Sample("up", {}, 1.0)
        for one in (*exported[job], up):
            labels = {**one.labels, "job": job, "instance": instance}
            inside = ",".join(f"{name}={json.dumps(value)}" for name, value in labels.items())
            grows = one.name.endswith(("_total", "_bucket", "_sum", "_count"))
            lines = series.setdefault(one.name, [])
            lines += [
                f"{one.name}{{{inside}}} {one.value * (minute if grows else 1)} "
                f"{NOON - 3600 + 60 * minute}"
                for minute in range(61)
            ]
    return "\n".join([line for lines in series.values() for line in lines] + ["# EOF\n"])


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=identifier)
def test_every_panel_of_a_dashboard_has_something_to_show(
    dashboard: Path, prometheus: httpx.Client
) -> None:
    for query in queries(dashboard):
        asked = {"query": query.replace("$__rate_interval", "5m"), "time": str(NOON)}
        answer = prometheus.get("/query", params=asked).json()
        assert answer["status"] == "success", answer
        assert answer["data"]["result"], query


@pytest.mark.parametrize("title", ["Failed", "Quoted", "Refused"])
@pytest.mark.parametrize("missing", ['outcome="[a-z]+"', "solemate_answers_total"])
def test_what_has_not_happened_yet_is_shown_as_none(
    title: str, missing: str, prometheus: httpx.Client
) -> None:
    panels = [
        panel
        for dashboard in DASHBOARDS
        for panel in json.loads(dashboard.read_text("utf-8"))["panels"]
    ]
    (panel,) = (one for one in panels if one["title"].startswith(title))
    instead = 'outcome="never"' if "outcome" in missing else "never_total"
    query = re.sub(missing, instead, panel["targets"][0]["expr"])
    asked = {"query": query, "time": str(NOON)}
    (shown,) = prometheus.get("/query", params=asked).json()["data"]["result"]
    assert float(shown["value"][1]) == 0


def shown_by(prometheus: httpx.Client, title: str) -> dict[str, float]:
    """What a panel of the business board shows, by the one label that is left."""
    board = json.loads((DEPLOY / "grafana/dashboards/business.json").read_text("utf-8"))
    (panel,) = (one for one in board["panels"] if one["title"].startswith(title))
    asked = {"query": panel["targets"][0]["expr"], "time": str(NOON)}
    result = prometheus.get("/query", params=asked).json()["data"]["result"]
    return {"".join(one["metric"].values()): float(one["value"][1]) for one in result}


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Duels ·", {"answered": 4, "unanswered": 1}),
        ("Duels won by adapter", {"solemate": 0.625, "v2": 0.375}),
        ("People today", {"": 7}),
        ("Bad cases", {"": 1}),
        ("Thumbs up", {"": 0.75}),
        ("Satisfaction by adapter", {"v1": 0.75}),
        ("Pairs", {"accepted": 5}),
        ("Runs", {"rejected": 1, "awaiting_approval": 1, "promoted": 2}),
    ],
)
def test_what_is_in_the_database_is_shown_once_however_many_engines_share_it(
    title: str, shown: dict[str, float], prometheus: httpx.Client
) -> None:
    assert shown_by(prometheus, title) == shown


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=identifier)
def test_a_dashboard_is_one_that_grafana_opens(dashboard: Path) -> None:
    board = json.loads(dashboard.read_text("utf-8"))
    source = yaml.safe_load(
        (DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )
    uid = source["datasources"][0]["uid"]
    assert board["uid"].startswith("solemate-")
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    places = set()
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == uid
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not places & cells, panel["title"]
        places |= cells


# --- backups, as the timer makes them ---


def test_nightly_backups_are_kept_as_long_as_those_before_an_upgrade() -> None:
    told = {
        file.name: re.findall(r"--keep-days\W+(\d+)", file.read_text("utf-8"))
        for file in DEPLOY.rglob("*")
        if file.suffix in {".service", ".yaml"}
    }
    nightly = {name: found for name, found in told.items() if found}
    files = ("solemate-backup.service", "compose.yaml", "backup.yaml")
    assert nightly == dict.fromkeys(files, [f"{KEPT_DAYS:g}"])


async def test_backup_and_restore_are_commands(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/solemate.db"
    async with Store(database):
        pass
    own = {
        "SOLEMATE__DATABASE__URL": database,
        "SOLEMATE__DATABASE__FOLDER": str(tmp_path / "state"),
        "SOLEMATE__LOGGING__FILE": str(tmp_path / "log"),
    }
    solemate = (sys.executable, "-m", "solemate")
    made = json.loads(
        output(*solemate, "backup", tmp_path / "b", "--keep-days", "30", "--json", **own)
    )
    output(*solemate, "restore", made["file"], "--check", **own)
    done = json.loads(output(*solemate, "restore", made["file"], "--json", **own))
    assert (done["files"], done["erased_again"]) == (1, 0)
