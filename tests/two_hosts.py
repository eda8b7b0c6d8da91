"""Two hosts on one machine, as docs/deploy.md has them; the line between them is cut in mid-answer.

    sudo .venv/bin/python tests/two_hosts.py

Each host is a network namespace with a loopback of its own. On one runs `solemate up`, on the
other the model server, the training cluster and an SSH server; the only way across is the tunnel of
deploy/systemd/solemate-tunnel.service, with a key that may do nothing else. The last line printed
is one JSON object with what was seen.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from training.launchers import Job  # noqa: E402  (a script has no installed package)
from training.ray_api import Cluster  # noqa: E402
from training.ray_jobs import RayLauncher  # noqa: E402

UNIT = ROOT / "deploy" / "systemd" / "solemate-tunnel.service"
GUIDE = ROOT / "docs" / "deploy.md"
PAGE, MODEL, RAY = "http://127.0.0.1:8080", "http://127.0.0.1:8000", "http://127.0.0.1:8265"
OURS, THEIRS = "10.88.0.1", "10.88.0.2"
TOKEN = "two-hosts-share-this-token-and-nobody-else"
QUESTIONS = (
    "帆布鞋怎么洗？",
    "德训鞋是什么鞋？",
    "How do I clean suede shoes?",
    "Are slides good for running?",
)
CONVERSATIONS = 8
START_SECONDS = 600
# Waits for a file, as a training run waits for its next step.
TRAINING = """
import pathlib, sys, time
print("training", flush=True)
while not pathlib.Path(sys.argv[1], "go").exists():
    time.sleep(0.1)
print("trained", flush=True)
"""


@dataclass(frozen=True)
class Hosts:
    """Two network namespaces and the link between them."""

    engine: str
    model: str
    link: str

    def on_model(self, *command: str | Path) -> list[str]:
        """A command as it runs on the model's host."""
        return ["ip", "netns", "exec", self.model, *map(str, command)]

    def cut(self) -> None:
        """Let nothing through, and tell neither side."""
        _run("ip", "-n", self.engine, "link", "set", self.link, "down")

    def restore(self) -> None:
        _run("ip", "-n", self.engine, "link", "set", self.link, "up")


def say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: {done.stderr.strip()}")


@contextmanager
def two_hosts() -> Iterator[Hosts]:
    """Make them, and put this process on the engine's."""
    number = os.getpid()
    hosts = Hosts(f"solemate-engine-{number}", f"solemate-model-{number}", f"se{number}")
    peer = f"sm{number}"
    try:
        for name in (hosts.engine, hosts.model):
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        _run("ip", "link", "add", hosts.link, "type", "veth", "peer", "name", peer)
        for name, end, address in ((hosts.engine, hosts.link, OURS), (hosts.model, peer, THEIRS)):
            _run("ip", "link", "set", end, "netns", name)
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", end)
            _run("ip", "-n", name, "link", "set", end, "up")
        with Path(f"/run/netns/{hosts.engine}").open() as namespace:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(namespace.fileno(), 0):
                raise SystemExit(f"setns: {os.strerror(ctypes.get_errno())}")
        yield hosts
    finally:
        for name in (hosts.engine, hosts.model):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextmanager
def program(name: str, folder: Path, command: Sequence[str], **changes: str) -> Iterator[None]:
    """A program that runs while the block does; its words go to NAME.log."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SOLEMATE_")}
    with (folder / f"{name}.log").open("wb") as words:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**kept, **changes},
            stdout=words,
            stderr=words,
            start_new_session=True,
        )
    try:
        yield
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)


def ssh_files(folder: Path) -> None:
    """Keys and files of both sides, with the restrictions that the guide gives the key."""
    for name in ("tunnel", "host"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    (restrictions,) = re.findall(
        r"^(restrict,port-forwarding,\S+) ssh-ed25519", GUIDE.read_text(), re.M
    )
    allowed = f"{restrictions} {(folder / 'tunnel.pub').read_text()}"
    (folder / "authorized_keys").write_text(allowed)
    (folder / "known_hosts").write_text(f"{THEIRS} {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(
        f"Host model\n  HostName {THEIRS}\n  User root\n  IdentitiesOnly yes\n"
        f"  IdentityFile {folder}/tunnel\n  UserKnownHostsFile {folder}/known_hosts\n"
    )
    (folder / "sshd_config").write_text(
        f"ListenAddress {THEIRS}\nHostKey {folder}/host\nPidFile none\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nPasswordAuthentication no\nUsePAM no\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)


def tunnel_command(folder: Path) -> list[str]:
    """What the unit runs."""
    text = re.sub(r"\\\n\s*", "", UNIT.read_text("utf-8"))
    (command,) = re.findall(r"^ExecStart=(.*)$", text, re.M)
    return shlex.split(command.replace("/etc/solemate/ssh_config", str(folder / "ssh_config")))


def again_and_again(command: Sequence[str]) -> list[str]:
    """A program that is started anew when it fails, as systemd has it."""
    return ["sh", "-c", 'while :; do "$@"; sleep 1; done', "program", *command]


def settings(state: Path, **more: str) -> dict[str, str]:
    return {
        "SOLEMATE__DATABASE__FOLDER": str(state),
        "SOLEMATE__DATABASE__URL": f"sqlite:///{state}/solemate.db",
        "SOLEMATE__LOGGING__FILE": "",
        "SOLEMATE__MODEL__BASE_URL": f"{MODEL}/v1",
        "SOLEMATE__LIMITS__MESSAGES_PER_MINUTE": "1000",
        "MODEL_API_KEY": TOKEN,
        **more,
    }


@contextmanager
def everything(hosts: Hosts, folder: Path) -> Iterator[None]:
    """What runs on both hosts, with the tunnel between them."""
    ssh_files(folder)
    python = sys.executable
    ray = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    ray += [f"--node-ip-address={THEIRS}", "--dashboard-host=127.0.0.1", "--dashboard-port=8265"]
    ray += ["--object-store-memory=100000000", "--disable-usage-stats", f"--temp-dir={folder}/ray"]
    serve = [python, "-m", "solemate", "serve", "--host", "127.0.0.1", "--port", "8000"]
    engine = settings(
        folder / "engine",
        SOLEMATE__MODEL__EMBEDDED="false",
        SOLEMATE__TRAINING__LAUNCHER="ray",
        RAY_AUTH_TOKEN=TOKEN,
    )
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    sshd = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", folder / "sshd_config"]
    with ExitStack() as stack:

        def start(name: str, command: Sequence[str], **changes: str) -> None:
            stack.enter_context(program(name, folder, command, **changes))

        start("sshd", hosts.on_model(*sshd))
        start("model", hosts.on_model(*serve), **settings(folder / "model"))
        start("ray", hosts.on_model(*again_and_again(ray)), **token)
        start("tunnel", again_and_again(tunnel_command(folder)))
        start("engine", [python, "-m", "solemate", "up"], **engine)
        yield


@asynccontextmanager
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=120) as opened:
        yield opened


async def until(what: str, url: str, seconds: float = START_SECONDS) -> None:
    """Wait until somebody answers there."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with client() as http, asyncio.timeout(seconds):
        while True:
            with suppress(httpx.HTTPError):
                if (await http.get(url, headers=headers)).is_success:
                    say(f"{what} is there")
                    return
            await asyncio.sleep(0.2)


async def until_refused(port: int) -> None:
    """Wait until the tunnel has noticed that its line is dead, and is to be opened anew."""
    async with asyncio.timeout(START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.2)


async def ask(session: str, question: str, begun: asyncio.Event) -> Mapping[str, Any]:
    """Ask, and read the answer while it is made; `begun` is set at its first word."""
    body = {"session_id": session, "message": question}
    last: dict[str, Any] = {}
    async with client() as http, http.stream("POST", f"{PAGE}/chat/stream", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                last = json.loads(line.removeprefix("data: "))
                begun.set()
    return last


async def answered_by_model(session: str) -> int:
    """How many questions it takes until the model answers one again."""
    asked = 0
    async with asyncio.timeout(START_SECONDS):
        while True:
            asked += 1
            reply = await ask(f"{session}-{asked}", QUESTIONS[0], asyncio.Event())
            if reply["outcome"] == "answered" and reply["adapter"]:
                return asked
            await asyncio.sleep(1)


async def kept(session: str) -> int:
    """How many answers of a session are stored."""
    async with client() as http:
        found = await http.get(f"{PAGE}/session/{session}")
        return len(found.json()["turns"])


async def experiment(hosts: Hosts, folder: Path) -> dict[str, Any]:
    """Answer; cut the line while answers and a training are under way; restore it."""
    await until("the model server, through the tunnel,", f"{MODEL}/v1/models")
    await until("the training cluster, through the tunnel,", f"{RAY}/api/v0/nodes")
    await until("the engine", f"{PAGE}/health")
    await answered_by_model("before")
    say("the model answers")

    launcher = RayLauncher(Cluster(RAY, TOKEN))
    run = folder / "run"
    job = Job("dpo-1-1", [sys.executable, "-c", TRAINING, str(run)], run, run / "train.log")
    await launcher.submit(job)
    async for words in launcher.logs(job):
        if b"training" in words:
            break

    begun = asyncio.Event()
    asking = [
        asyncio.create_task(ask(f"during-{number}", QUESTIONS[number % len(QUESTIONS)], begun))
        for number in range(CONVERSATIONS)
    ]
    await begun.wait()
    hosts.cut()
    say("the line is cut")
    replies = await asyncio.gather(*asking)
    alone = await ask("alone", QUESTIONS[0], asyncio.Event())
    await until_refused(8000)
    hosts.restore()
    say("the line is restored")
    again = await answered_by_model("after")

    (run / "go").touch()
    async for _ in launcher.logs(job):
        pass
    status = await launcher.status(job)
    stored = [await kept(f"during-{number}") for number in range(CONVERSATIONS)]
    return {
        "asked": CONVERSATIONS,
        "quoted_in_mid_answer": sum(reply["outcome"] == "quoted" for reply in replies),
        "answered_in_time": sum(reply["outcome"] == "answered" for reply in replies),
        "stored_once": sum(count == 1 for count in stored),
        "while_cut": alone["outcome"],
        "questions_until_the_model_answers_again": again,
        "training": status.state if status.code is None else f"{status.state} {status.code}",
        "training_log": job.log.read_text("utf-8"),
    }


def main() -> None:
    """Do the experiment; the logs of all programs are shown where it fails."""
    folder = Path(tempfile.mkdtemp(prefix="two-", dir="/tmp"))
    try:
        with two_hosts() as hosts, everything(hosts, folder):
            say(json.dumps(asyncio.run(experiment(hosts, folder))))
    except BaseException:
        for log in sorted(folder.glob("*.log")):
            text = log.read_text("utf-8", "replace")
            say(f"--- {log.name}\n{text[-3000:]}")
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
