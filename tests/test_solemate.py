"""The command line as its users run it: a process of its own, with its own state."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent
EXPERT = ROOT / "data" / "embedded" / "expert"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    state = tmp_path_factory.mktemp("state")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("SOLEMATE")},
        "SOLEMATE__DATABASE__FOLDER": str(state),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{state}/solemate.db",
        "SOLEMATE__LOGGING__FILE": str(state / "solemate.log"),
        "SOLEMATE__WEB__PORT": str(free_port()),
        "SOLEMATE__MODEL__BASE_URL": f"http://127.0.0.1:{free_port()}/v1",
        # A machine that also runs other tests is slow, and slowness is not what is tested here.
        "SOLEMATE__MODEL__FIRST_TOKEN_SECONDS": "60",
        "SOLEMATE__MODEL__DEADLINE_SECONDS": "120",
        "COLUMNS": "200",
    }


def solemate(
    environment: dict[str, str], *arguments: str, **changes: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "solemate", *arguments],
        cwd=ROOT,
        env={**environment, **changes},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def running(environment: dict[str, str]) -> Iterator[str]:
    """A `solemate up` that is ready; its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "solemate", "up"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if found := re.search(r"ready: (http\S+)", line):
                yield found[1]
                break
        else:
            pytest.fail("".join(lines))
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.stdout is not None
        process.stdout.close()


def test_ask_starts_what_it_needs_and_prints_json(environment: dict[str, str]) -> None:
    done = solemate(environment, "ask", "帆布鞋怎么洗？", "--json")
    assert done.returncode == 0, done.stderr
    reply = json.loads(done.stdout)
    assert reply["outcome"] in ("answered", "quoted")
    assert reply["sources"]
    assert {"answer", "tags", "adapter", "timings"} <= set(reply)


def test_a_question_about_something_else_is_refused(
    environment: dict[str, str], running: str
) -> None:
    done = solemate(environment, "ask", "明天北京会下雨吗", "--json")
    assert json.loads(done.stdout)["outcome"] == "refused"


def test_ask_asks_the_running_solemate_and_a_second_up_is_refused(
    environment: dict[str, str], running: str
) -> None:
    asked = solemate(environment, "ask", "What is a Chelsea boot?", "--json")
    assert json.loads(asked.stdout)["language"] == "en", asked.stderr
    second = solemate(environment, "up")
    assert second.returncode == 1
    assert "is taken" in second.stderr
    elsewhere = solemate(environment, "up", SOLEMATE__WEB__PORT=str(free_port()))
    assert elsewhere.returncode == 1
    assert "already using" in elsewhere.stderr


async def test_a_thumb_is_stored_and_a_stopped_model_server_leads_to_a_quote(
    environment: dict[str, str], running: str
) -> None:
    async with httpx.AsyncClient(base_url=running, timeout=120) as client:
        answer = (await client.post("/chat", json={"message": "乐福鞋是什么鞋？"})).json()
        thumb = {
            "session_id": answer["session_id"],
            "message_id": answer["message_id"],
            "feedback": "thumbs_down",
            "correction": "乐福鞋没有鞋带。",
        }
        assert (await client.post("/feedback", json=thumb)).json()["status"] == "success"
        kill_server_at(environment["SOLEMATE__MODEL__BASE_URL"])
        quoted = (await client.post("/chat", json={"message": "德训鞋是什么鞋？"})).json()
        assert quoted["outcome"] == "quoted"
        assert not quoted["complete"]
        assert await model_is_back(client)


async def model_is_back(client: httpx.AsyncClient) -> bool:
    """Whether the model server is well again within two minutes."""
    async with asyncio.timeout(120):
        while (await client.get("/health")).json()["parts"]["model"]["status"] != "ok":  # noqa: ASYNC110
            await asyncio.sleep(0.5)
    return True


def kill_server_at(url: str) -> None:
    """Kill the `solemate serve` whose environment holds this address."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            variables = (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"serve" in command and url.encode() in variables:
            os.kill(int(entry.name), signal.SIGKILL)
            return
    pytest.fail(f"No model server serves at {url}.")


@pytest.mark.parametrize(
    ("arguments", "changes", "sentence"),
    [
        (["doctor"], {"SOLEMATE__WEB__PRT": "1"}, "did you mean 'port'"),
        (["--profile", "nowhere", "doctor"], {}, "no profile 'nowhere'"),
        (["kb", "search"], {}, "Give a question"),
        (["kb", "add", "missing.json"], {}, "missing.json"),
        (["tag", "missing.jpg"], {}, "missing.jpg"),
        (["serve", "--model", "missing"], {}, "missing"),
        (["serve", "--adapter", "nonsense"], {}, "NAME=FOLDER"),
        (["ask", "鞋" * 5000], {}, "5000"),
    ],
)
def test_a_users_mistake_is_one_clear_sentence(
    environment: dict[str, str], arguments: list[str], changes: dict[str, str], sentence: str
) -> None:
    done = solemate(environment, *arguments, **changes)
    assert done.returncode == 1
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_batch_search_ranks_any_knowledge_file(environment: dict[str, str], tmp_path: Path) -> None:
    knowledge = tmp_path / "shop.json"
    knowledge.write_text('[{"id": "hours", "content": "本店每天上午 10 点开门。"}]', "utf-8")
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"id": "q1", "question": "几点开门"}\n', "utf-8")
    done = solemate(
        environment,
        *("kb", "search", "--knowledge", str(knowledge), "--batch", str(questions), "--json"),
    )
    line = json.loads(done.stdout)
    assert line["id"] == "q1"
    assert line["results"][0]["id"] == "hours"
    assert {"id", "score"} == set(line["results"][0])


def test_doctor_names_every_part(environment: dict[str, str]) -> None:
    done = solemate(environment, "doctor", "--json")
    parts = {finding["part"]: finding["health"] for finding in json.loads(done.stdout)}
    assert {"store", "knowledge", "model", "page", "disk"} <= set(parts)
    assert "ill" not in parts.values()
