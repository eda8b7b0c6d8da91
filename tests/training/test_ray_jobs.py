"""A job on a Ray cluster runs once, is found again, stops politely, and is judged by its folder."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from core.database import upsert
from core.doctor import Health
from core.errors import ClusterUnavailable, TrainingFailed
from core.settings import Settings, load_settings
from core.store import Store
from core.tables import pairs
from tests.training.ray_head import TOKEN, ray_head
from tests.training.run_parts import make_tiny_model, pair, two_steps_of
from tests.training.stand_in import Workshop
from training.launchers import EXIT, PID, Job, JobState, JobStatus
from training.pairs import to_row
from training.ray_api import Cluster
from training.ray_jobs import Pace, RayLauncher
from training.ray_probe import examine_cluster
from training.runs import Runs, RunState
from training.seal import check_seal
from training.steps import Limits

# Whichever comes first waits for the head.
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

QUICK = Pace(poll=0.05, waiting=600.0, manifest=0.2, stop=20.0)
TALKATIVE = replace(QUICK, waiting=0.1)
# It takes longer to save than the three seconds that Ray gives a job by itself.
SAVING = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(4)
    pathlib.Path(sys.argv[1], "saved").touch()
    raise SystemExit(0)
signal.signal(signal.SIGTERM, save)
print("training", flush=True)
signal.pause()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with ray_head() as started:
        yield started


def job(folder: Path, text: str) -> Job:
    """A job whose id is as new as its folder."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-c", text, str(folder)]
    return Job(f"dpo-{folder.parent.name}-1", command, folder, folder / "train.log")


async def words_of(launcher: RayLauncher, one: Job, until: bytes = b"\0") -> bytes:
    said = b""
    async for words in launcher.logs(one):
        said += words
        if until in said:
            break
    return said


# --- a real head ---


async def test_a_job_says_its_words_and_its_exit_status(cluster: Cluster, tmp_path: Path) -> None:
    launcher = RayLauncher(cluster, QUICK)
    one = job(tmp_path / "a", "print('trained'); raise SystemExit(3)")
    assert await launcher.status(one) == JobStatus(JobState.NEW)
    await launcher.submit(one)
    assert await words_of(launcher, one) == b"trained\n"
    assert await launcher.status(one) == JobStatus(JobState.ENDED, 3)
    await launcher.stop(one)


async def test_a_job_is_started_once_whoever_submits_it(cluster: Cluster, tmp_path: Path) -> None:
    one = job(tmp_path / "a", "print('once', flush=True); import signal; signal.pause()")
    await RayLauncher(cluster, QUICK).submit(one)
    # Started anew, solemate submits it again, and finds the one that runs.
    launcher = RayLauncher(cluster, QUICK)
    await launcher.submit(one)
    assert await words_of(launcher, one, until=b"once") == b"once\n"
    await launcher.submit(one)
    assert (await launcher.status(one)).state is JobState.RUNNING
    await launcher.stop(one)
    assert (await launcher.status(one)).state is JobState.GONE
    assert one.log.read_text() == "once\n"


async def test_a_job_that_is_stopped_has_the_time_to_save(cluster: Cluster, tmp_path: Path) -> None:
    launcher = RayLauncher(cluster, QUICK)
    one = job(tmp_path / "a", SAVING)
    await launcher.submit(one)
    await words_of(launcher, one, until=b"training")
    await launcher.stop(one)
    assert (one.folder / "saved").exists()


async def test_a_job_without_room_waits_and_says_so(cluster: Cluster, tmp_path: Path) -> None:
    launcher = RayLauncher(replace(cluster, gpus=1), replace(TALKATIVE, stop=0.1))
    one = job(tmp_path / "a", "print('never')")
    await launcher.submit(one)
    assert b"no room" in await words_of(launcher, one, until=b"no room")
    assert (await launcher.status(one)).state is JobState.RUNNING
    await launcher.stop(one)
    assert not one.log.exists()


async def test_a_job_for_the_cpu_waits_for_no_gpu(cluster: Cluster, tmp_path: Path) -> None:
    launcher = RayLauncher(replace(cluster, gpus=1), QUICK)
    one = job(tmp_path / "a", "print('trained')")
    one = replace(one, command=["env", "CUDA_VISIBLE_DEVICES=", *one.command])
    await launcher.submit(one)
    assert await words_of(launcher, one) == b"trained\n"


async def test_a_wrong_token_is_named(cluster: Cluster, tmp_path: Path) -> None:
    stranger = RayLauncher(replace(cluster, token="x" * 32), QUICK)
    with pytest.raises(ClusterUnavailable, match="RAY_AUTH_TOKEN"):
        await stranger.submit(job(tmp_path / "a", "print('never')"))


async def test_llamafactory_trains_a_run_on_the_cluster(cluster: Cluster, tmp_path: Path) -> None:
    async with Store(f"sqlite:///{tmp_path / 's.db'}") as store:
        shop = Workshop(tmp_path, Runs(store, tmp_path / "runs"))
        shop.pool[:] = [pair(number) for number in range(4)]
        for one in shop.pool:
            row = to_row(one) | {"decided_at": 1.0}
            await store.run(lambda connection, row=row: upsert(connection, pairs, row, key=("id",)))
        shop.limits = Limits(timeout_seconds=600.0, stall_seconds=600.0, attempts=1)
        shop.launcher = lambda: RayLauncher(cluster, QUICK)
        shop.plan = two_steps_of(make_tiny_model(tmp_path / "tiny"))  # type: ignore[method-assign]
        run = await shop.until(RunState.EVALUATING)
    assert (shop.seen[-1].steps, shop.seen[-1].total) == (2, 2)
    seal = check_seal(run.output, run=run.id, dataset=run.dataset)
    assert "adapter_model.safetensors" in seal.files


@pytest.mark.nightly
@pytest.mark.parametrize("finished", [True, False])
async def test_a_head_that_is_killed_and_started_anew_loses_no_result(
    tmp_path: Path, finished: bool
) -> None:
    one = job(tmp_path / "a", "print('trained')" if finished else SAVING)
    with ray_head() as first:
        launcher = RayLauncher(first, QUICK)
        await launcher.submit(one)
        await words_of(launcher, one, until=b"train")
        if finished:
            await words_of(launcher, one)
    with ray_head() as second:
        found = await RayLauncher(second, QUICK).status(one)
    ended = JobStatus(JobState.ENDED, 0)
    assert found == (ended if finished else JobStatus(JobState.GONE))


def chosen(cluster: Cluster, recipe: str, token: str = TOKEN, **more: str) -> Settings:
    variables = {
        "SOLEMATE__TRAINING__LAUNCHER": "ray",
        "SOLEMATE__TRAINING__RAY_ADDRESS": cluster.address,
        "SOLEMATE__TRAINING__RECIPE": recipe,
        # The shipped model fits the shipped recipe alone.
        "SOLEMATE__MODEL__EMBEDDED": "true" if recipe == "embedded" else "false",
        "RAY_AUTH_TOKEN": token,
    }
    return load_settings(environment={**variables, **more})


async def test_doctor_names_a_cluster_without_a_gpu(cluster: Cluster) -> None:
    finding = await examine_cluster(chosen(cluster, "llama3-8b"))
    assert finding.health is Health.ILL
    assert "a cluster without a GPU" in finding.advice
    assert "GPUs: 0" in finding.found


async def test_doctor_finds_nothing_wrong_where_the_recipe_wants_no_gpu(cluster: Cluster) -> None:
    finding = await examine_cluster(chosen(cluster, "embedded"))
    assert (finding.health, finding.advice) == (Health.OK, "")


async def test_doctor_names_a_wrong_token(cluster: Cluster) -> None:
    finding = await examine_cluster(chosen(cluster, "embedded", token="wrong" * 8))
    assert finding.health is Health.ILL
    assert "RAY_AUTH_TOKEN" in finding.advice


# --- what Ray says, and what is so ---


class FakeRay:
    """Ray's REST API with a job whose status is what a test says, or that is out of reach."""

    def __init__(self, *statuses: str) -> None:
        self.statuses = list(statuses)
        self.asked: list[str] = []
        self.answers: dict[str, object] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(f"{request.method} {request.url.path}")
        if (answer := self.answers.get(request.url.path)) is not None:
            return httpx.Response(200, json=answer)
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == "away":
            raise httpx.ConnectError("refused")
        if request.method == "POST" and request.url.path == "/api/jobs/":
            return httpx.Response(500, text="ValueError: Job already exists.\n.\n")
        if status == "unknown":
            return httpx.Response(404, text="does not exist")
        return httpx.Response(200, json={"status": status, "message": "last logs:\nout of memory"})


def launcher_of(ray: Callable[[httpx.Request], httpx.Response], pace: Pace = QUICK) -> RayLauncher:
    return RayLauncher(Cluster("http://ray"), pace, httpx.MockTransport(ray))


@pytest.mark.nightly
async def test_a_job_that_a_head_would_not_wait_for_is_new_and_submitted_again(
    tmp_path: Path,
) -> None:
    one = job(tmp_path / "a", "print('never')")
    with ray_head(RAY_JOB_START_TIMEOUT_SECONDS="3") as cluster:
        launcher = RayLauncher(replace(cluster, gpus=1), QUICK)
        for _ in range(2):
            await launcher.submit(one)
            assert (await launcher.status(one)).state is JobState.RUNNING
            assert await words_of(launcher, one) == b""
            assert (await launcher.status(one)).state is JobState.NEW


class Impatient:
    """A Ray that gave a job up because no GPU became free, and takes it again once it forgot it."""

    def __init__(self, info: dict[str, str]) -> None:
        self.info: dict[str, str] | None = info
        self.submitted = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "DELETE":
            self.info = None
        elif request.method == "POST":
            if self.info is not None:
                return httpx.Response(500, text="ValueError: Job already exists.")
            self.submitted += 1
        elif self.info is None:
            return httpx.Response(404)
        return httpx.Response(200, json=self.info or {})


@pytest.mark.parametrize(
    "info",
    [
        {"message": "Job supervisor actor failed to start within 900.0 seconds. This timeout …"},
        {"message": "another version's words", "error_type": "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"},
    ],
    ids=["words", "type"],
)
async def test_a_job_that_waited_too_long_is_no_crash_and_submitted_again(
    tmp_path: Path, info: dict[str, str]
) -> None:
    one, ray = job(tmp_path / "a", ""), Impatient({"status": "FAILED", **info})
    launcher = launcher_of(ray)
    assert await launcher.status(one) == JobStatus(JobState.NEW)
    assert await words_of(launcher, one) == b""
    await launcher.submit(one)
    assert ray.submitted == 1


@pytest.mark.parametrize("status", ["FAILED", "STOPPED", "SUCCEEDED", "unknown", "RUNNING"])
async def test_a_job_whose_folder_says_that_it_ended_has_ended(tmp_path: Path, status: str) -> None:
    one = job(tmp_path / "a", "")
    for name, number in ((PID, 7), (EXIT, 0)):
        (one.folder / name).write_text(str(number))
    assert await launcher_of(FakeRay(status)).status(one) == JobStatus(JobState.ENDED, 0)


@pytest.mark.parametrize("status", ["FAILED", "STOPPED", "SUCCEEDED", "unknown"])
async def test_a_job_whose_folder_says_no_end_is_gone_whatever_ray_says(
    tmp_path: Path, status: str
) -> None:
    one = job(tmp_path / "a", "")
    (one.folder / PID).write_text("7")
    assert await launcher_of(FakeRay(status)).status(one) == JobStatus(JobState.GONE)


async def test_a_head_that_was_started_anew_gets_the_job_that_had_not_begun_again(
    tmp_path: Path,
) -> None:
    one = job(tmp_path / "a", "")
    assert await launcher_of(FakeRay("unknown")).status(one) == JobStatus(JobState.NEW)


async def test_an_exit_status_that_comes_late_through_the_network_counts(tmp_path: Path) -> None:
    one = job(tmp_path / "a", "")
    (one.folder / PID).write_text("7")
    launcher = launcher_of(FakeRay("SUCCEEDED"), replace(QUICK, manifest=60.0))
    asked = asyncio.create_task(launcher.status(one))
    await asyncio.sleep(0)
    (one.folder / EXIT).write_text("0")
    assert await asked == JobStatus(JobState.ENDED, 0)


async def test_ray_s_last_words_are_kept_where_the_job_left_none(tmp_path: Path) -> None:
    one = job(tmp_path / "a", "")
    said = await words_of(launcher_of(FakeRay("RUNNING", "FAILED")), one)
    assert said == b"Ray says FAILED: out of memory\n"


async def test_a_cluster_that_is_away_for_a_while_is_waited_for(tmp_path: Path) -> None:
    one = job(tmp_path / "a", "")
    ray = FakeRay("RUNNING", *["away"] * 5, "RUNNING")
    words = launcher_of(ray, TALKATIVE).logs(one)
    said = b""
    while b"No answer from http://ray" not in said:
        said += await anext(words)
    one.log.write_text("step 2\n")
    while b"step 2" not in said:
        said += await anext(words)
    await words.aclose()


async def test_a_submission_that_ray_has_already_is_no_failure(tmp_path: Path) -> None:
    await launcher_of(FakeRay("PENDING")).submit(job(tmp_path / "a", ""))


async def test_a_submission_that_ray_does_not_take_is_named_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnavailable, match="already exists"):
        await launcher_of(FakeRay("unknown")).submit(job(tmp_path / "a", ""))


async def test_stopping_asks_until_the_cluster_is_back(tmp_path: Path) -> None:
    ray = FakeRay("away", "away", "RUNNING", "RUNNING", "STOPPED")
    one = job(tmp_path / "a", "")
    await launcher_of(ray).stop(one)
    assert f"POST /api/jobs/{one.id}/stop" in ray.asked


async def test_a_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="under the same path"):
        await launcher_of(FakeRay("SUCCEEDED")).fetch(job(tmp_path / "a", ""), tmp_path / "b")


# --- the doctor's other findings ---


def nodes(*gpus: int) -> dict[str, object]:
    machines = [{"state": "ALIVE", "resources_total": {"CPU": 8.0, "GPU": g}} for g in gpus]
    dead = {"state": "DEAD", "resources_total": {"GPU": 8.0}}
    return {"data": {"result": {"result": [*machines, dead]}}}


def with_nodes(*gpus: int, is_open: bool = False, version: str = "2.60.0") -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        if not is_open and "authorization" not in request.headers:
            return httpx.Response(401)
        if request.url.path == "/api/version":
            return httpx.Response(200, json={"ray_version": version})
        return httpx.Response(200, json=nodes(*gpus))

    return httpx.MockTransport(answer)


async def test_doctor_is_content_with_a_gpu_behind_a_token() -> None:
    settings = chosen(Cluster("http://127.0.0.1:8265"), "llama3-8b")
    finding = await examine_cluster(settings, with_nodes(0, 1))
    assert (finding.health, finding.found) == (
        Health.OK,
        "Ray 2.60.0 at http://127.0.0.1:8265, GPUs: 0 + 1; llama3-8b needs deepspeed there",
    )


@pytest.mark.parametrize(
    ("address", "gpus", "is_open", "advice"),
    [
        ("http://127.0.0.1:8265", 2, False, "no machine has 4"),
        ("http://127.0.0.1:8265", 4, True, "RAY_AUTH_MODE=token"),
        ("http://a100:8265", 4, False, "unencrypted"),
    ],
)
async def test_doctor_says_what_to_do_about_a_cluster(
    address: str, gpus: int, is_open: bool, advice: str
) -> None:
    settings = chosen(Cluster(address), "llama3-8b", SOLEMATE__TRAINING__RAY_GPUS="4")
    finding = await examine_cluster(settings, with_nodes(gpus, is_open=is_open))
    assert finding.health is not Health.OK
    assert advice in finding.advice


async def test_doctor_names_a_ray_with_a_known_hole() -> None:
    settings = chosen(Cluster("http://127.0.0.1:8265"), "llama3-8b")
    for version, health in (("2.51.1", Health.WARNING), ("2.52.0", Health.OK)):
        finding = await examine_cluster(settings, with_nodes(1, version=version))
        assert finding.health is health
        assert health is Health.OK or "Upgrade Ray to 2.52" in finding.advice


async def test_doctor_names_a_recipe_whose_adapters_nobody_here_could_serve() -> None:
    own = {"SOLEMATE__MODEL__EMBEDDED": "true"}
    settings = chosen(Cluster("http://127.0.0.1:8265"), "llama3-8b", **own)
    finding = await examine_cluster(settings, with_nodes(1))
    assert finding.health is Health.ILL
    assert "model.expert is 'data/embedded/expert'" in finding.advice


async def test_doctor_names_a_cluster_that_does_not_answer() -> None:
    settings = chosen(Cluster("http://127.0.0.1:8265"), "llama3-8b")
    finding = await examine_cluster(settings, httpx.MockTransport(FakeRay("away")))
    assert (finding.health, finding.found) == (Health.ILL, "no answer from http://127.0.0.1:8265")
