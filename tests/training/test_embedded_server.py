"""The embedded server over a real socket, asked by the `openai` package as vLLM would be."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_outputs import CausalLMOutputWithPast

from core.errors import Busy, ConfigError, ModelUnavailable, NotFound
from training.servers import embedded
from training.servers.decoding import Chunk, Decoder, Request, TextStream, loops
from training.servers.embedded import ServerOptions, running
from training.servers.language_model import LanguageModel, load_model
from training.servers.lora import RowAdapters, read_adapter
from training.servers.proxy import Keys

QUESTION = "鞋?"
ANSWER = "黑色 shoe 👟, size 42。很好"
ADAPTED = "白色 boot 👢, size 39。不错"
TEMPLATE = "{% for m in messages %}[{{ m['role'][0] }}]{{ m['content'] }}{% endfor %}[a]"
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
ASK: Any = {"model": "solemate", "messages": [{"role": "user", "content": QUESTION}]}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that a character takes several and half ones can happen."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<eos>": 1} | {sign: at for at, sign in enumerate(alphabet, 2)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )


def teach(network: Any, tokenizer: Any, answer: str, steps: int, rate: float) -> None:
    """Make the network give this answer to the question and then stop."""
    prompt = tokenizer.apply_chat_template(
        ASK["messages"], add_generation_prompt=True, return_dict=False
    )
    tokens = torch.tensor([[*prompt, *tokenizer.encode(answer), tokenizer.eos_token_id]])
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=rate)
    network.train()
    for _ in range(steps):
        network(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    network.eval()


@dataclass(frozen=True)
class Folders:
    model: Path
    adapter: Path


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A tiny model that knows one answer, and an adapter with which it knows another."""
    root = tmp_path_factory.mktemp("embedded")
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    network = LlamaForCausalLM(config)
    teach(network, tokenizer, ANSWER, steps=80, rate=5e-3)
    network.to(torch.bfloat16).save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    network = LlamaForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    adapted = get_peft_model(network, LoraConfig(r=8, lora_alpha=16, target_modules=TARGETS))
    teach(adapted, tokenizer, ADAPTED, steps=150, rate=2e-2)
    adapted.save_pretrained(root / "adapter", save_embedding_layers=False)
    return Folders(root / "model", root / "adapter")


@dataclass(frozen=True)
class Running:
    """A server and a client of it."""

    client: openai.AsyncOpenAI
    http: httpx2.AsyncClient

    async def text(self, model: str = "solemate", **more: Any) -> str:
        answer = await self.client.chat.completions.create(
            **(ASK | {"model": model, "temperature": 0.0} | more)
        )
        return answer.choices[0].message.content or ""

    async def streamed(self, model: str = "solemate", **more: Any) -> str:
        stream = await self.client.chat.completions.create(
            **(ASK | {"model": model, "temperature": 0.0, "stream": True} | more)
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def load(self, name: str, path: Path, **more: Any) -> httpx2.Response:
        body = {"lora_name": name, "lora_path": str(path)} | more
        return await self.http.post("/v1/load_lora_adapter", json=body)

    async def metric(self, name: str) -> float:
        page = (await self.http.get("/metrics")).text
        lines = [line for line in page.splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(folders: Folders) -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def begin(**more: Any) -> Running:
            options = ServerOptions(folders.model, "solemate", "127.0.0.1", 0)
            options = replace(options, **({"adapters": {"boots": folders.adapter}} | more))
            url = await stack.enter_async_context(running(options))
            http = httpx2.AsyncClient(base_url=url.removesuffix("/v1"), timeout=30)
            await stack.enter_async_context(http)
            client = openai.AsyncOpenAI(
                base_url=url, api_key=options.keys.engine or "none", max_retries=0
            )
            await stack.enter_async_context(client)
            return Running(client, http)

        yield begin


@pytest.fixture
async def server(start: Start) -> Running:
    return await start()


@pytest.fixture
def broken(folders: Folders, tmp_path: Path) -> Path:
    """A copy of the adapter, to be damaged."""
    return Path(shutil.copytree(folders.adapter, tmp_path / "broken"))


def edit_config(folder: Path, **more: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


async def test_the_model_says_what_it_was_taught(server: Running) -> None:
    assert await server.text() == ANSWER


async def test_a_streamed_answer_has_the_same_text(server: Running) -> None:
    assert await server.streamed() == ANSWER


async def test_no_piece_of_a_stream_holds_half_a_character(server: Running) -> None:
    stream = await server.client.chat.completions.create(**ASK, temperature=0.0, stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "👟" in pieces
    assert not any("\ufffd" in piece for piece in pieces)


async def test_an_answer_that_ended_by_itself_says_stop(server: Running) -> None:
    answer = await server.client.chat.completions.create(**ASK, temperature=0.0)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "solemate"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(ANSWER.encode())


async def test_a_cut_answer_says_length(server: Running) -> None:
    answer = await server.client.chat.completions.create(**ASK, temperature=0.0, max_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content == "黑色 "


async def test_the_newer_name_of_max_tokens_is_known(server: Running) -> None:
    assert await server.text(max_completion_tokens=7) == "黑色 "


@pytest.mark.parametrize("stop", ["shoe", ["zzz", " shoe", "size"]])
async def test_an_answer_ends_before_a_stop_string(server: Running, stop: Any) -> None:
    whole, streamed = await server.text(stop=stop), await server.streamed(stop=stop)
    assert whole == streamed
    assert whole.strip() == "黑色"


async def test_usage_is_streamed_when_asked_for(server: Running) -> None:
    stream = await server.client.chat.completions.create(
        **ASK, stream=True, stream_options={"include_usage": True}, max_tokens=3
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_the_same_seed_gives_the_same_answer(server: Running) -> None:
    hot = {"temperature": 2.0, "max_tokens": 40}
    first = await server.text(**hot, seed=7)
    assert await server.text(**hot, seed=7) == first
    assert await server.text(**hot, seed=8) != first


async def test_a_narrow_nucleus_is_as_good_as_no_temperature(server: Running) -> None:
    assert await server.text(temperature=2.0, top_p=0.01) == ANSWER


class Indifferent(torch.nn.Module):
    """Always finds "a" a little likelier than "b"."""

    config = LlamaConfig(vocab_size=2)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return CausalLMOutputWithPast(logits=torch.tensor([[[2.0, 1.9]]]))


@pytest.mark.parametrize(("penalty", "text"), [(1.0, "aaa"), (1.2, "baa")])
async def test_a_repetition_penalty_counts_prompt_and_answer(penalty: float, text: str) -> None:
    request = Request((0,), max_tokens=3, temperature=0.0, repetition_penalty=penalty)
    spell = "".join
    with Decoder(Indifferent(), lambda t: spell("ab"[one] for one in t), frozenset()) as decoder:
        chunks = [chunk.text async for chunk in decoder.submit(request).chunks()]
    assert spell(chunks) == text


async def test_an_adapter_answers_in_its_own_words(server: Running) -> None:
    assert await server.text("boots") == ADAPTED
    assert await server.text() == ANSWER


async def test_requests_together_answer_as_they_do_alone(server: Running) -> None:
    names = ["solemate", "boots", "solemate", "boots", "boots", "solemate"]
    long = [{"role": "user", "content": "a much longer question"}]
    alone = await server.text(messages=long, max_tokens=60)
    texts = await asyncio.gather(
        server.text(messages=long, max_tokens=60), *(server.streamed(name) for name in names)
    )
    assert texts[0] == alone
    assert texts[1:] == [ANSWER if name == "solemate" else ADAPTED for name in names]


@pytest.fixture
def endless_model(folders: Folders, tmp_path: Path) -> Path:
    """The taught model without an end token and with a context that no test can fill."""
    folder = Path(shutil.copytree(folders.model, tmp_path / "endless"))
    for name, change in (
        ("config.json", {"max_position_embeddings": 10**9, "eos_token_id": 0}),
        ("generation_config.json", {"eos_token_id": 0}),
        ("tokenizer_config.json", {"eos_token": "<pad>"}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | change))
    return folder


ENDLESS: Any = ASK | {"temperature": 2.0, "seed": 1}


async def test_a_client_that_leaves_a_stream_frees_its_slot(
    start: Start, endless_model: Path
) -> None:
    server = await start(model=endless_model, adapters={}, slots=1)
    stream = await server.client.chat.completions.create(**ENDLESS, stream=True)
    await anext(stream)
    await stream.close()
    assert await asyncio.wait_for(server.text(max_tokens=7), 20) == "黑色 "


async def test_a_client_that_stops_waiting_frees_its_slot(
    start: Start, endless_model: Path
) -> None:
    server = await start(model=endless_model, adapters={}, slots=1)
    task = asyncio.create_task(server.text(**(ENDLESS | {"max_tokens": 10**8})))
    while await server.metric("vllm:num_requests_running") == 0:
        pass
    task.cancel()
    assert await asyncio.wait_for(server.text(max_tokens=7), 20) == "黑色 "


async def test_a_stopping_server_ends_its_streams_with_an_error(
    endless_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "GRACE_SECONDS", 0.05)
    options = ServerOptions(endless_model, "solemate", "127.0.0.1", 0)
    async with AsyncExitStack() as client_side:
        async with running(options) as url:
            client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)
            await client_side.enter_async_context(client)
            stream = await client.chat.completions.create(**ENDLESS, stream=True)
            await anext(stream)
        with pytest.raises(openai.APIError, match="stopped before the answer ended"):
            [chunk async for chunk in stream]


async def test_requests_beyond_slots_and_queue_are_refused(model: LanguageModel) -> None:
    decoder = Decoder(model.network, model.decode, model.ends, slots=1, waiting=1)
    decoder.submit(Request(tokens=(5,), max_tokens=5))
    decoder.submit(Request(tokens=(5,), max_tokens=5))
    with pytest.raises(Busy, match="2 requests wait already"):
        decoder.submit(Request(tokens=(5,), max_tokens=5))


async def test_a_full_server_answers_503(start: Start) -> None:
    server = await start(slots=1, waiting=0)
    outcomes = await asyncio.gather(*(server.text() for _ in range(12)), return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, openai.InternalServerError)]
    assert {one.status_code for one in refused} == {503}
    assert {one.response.headers["retry-after"] for one in refused} == {"1"}
    assert ANSWER in outcomes


BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "no messages": {"messages": []},
    "a photo": {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    "an unknown role": {"messages": [{"role": "wizard", "content": "x"}]},
    "two answers": {"n": 2},
    "a negative temperature": {"temperature": -1},
    "no tokens": {"max_tokens": 0},
    "an empty nucleus": {"top_p": 0},
    "an empty stop string": {"stop": ""},
    "usage without a stream": {"stream_options": {"include_usage": True}},
    "tools": {"tools": [{"type": "function"}]},
    "a negative penalty": {"repetition_penalty": -1},
}


@pytest.mark.parametrize("change", BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
async def test_a_bad_field_is_a_400_that_names_it(server: Running, change: dict[str, Any]) -> None:
    response = await server.http.post("/v1/chat/completions", json=ASK | change)
    assert response.status_code == 400
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "BadRequestError"
    assert next(iter(change)).split("_")[0] in error["message"].lower()


async def test_a_body_that_is_no_json_is_a_400(server: Running) -> None:
    response = await server.http.post("/v1/chat/completions", content=b"{oops")
    assert (response.status_code, response.json()["error"]["code"]) == (400, 400)


async def test_a_huge_body_is_a_413(server: Running) -> None:
    response = await server.http.post("/v1/chat/completions", content=b"x" * 1_000_001)
    assert response.status_code == 413


async def test_an_unknown_model_is_a_404(server: Running) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `gone` does not exist") as refusal:
        await server.text("gone")
    assert refusal.value.param == "model"


async def test_an_unknown_path_is_an_error_object(server: Running) -> None:
    response = await server.http.get("/v1/nothing")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "NotFound")


async def test_a_prompt_beyond_the_context_is_a_400_with_figures(server: Running) -> None:
    long = [{"role": "user", "content": "x" * 400}]
    with pytest.raises(openai.BadRequestError, match="maximum context length is 256 tokens"):
        await server.text(messages=long)


async def test_an_answer_never_outgrows_the_context(server: Running) -> None:
    long = [{"role": "user", "content": "x" * 240}]
    answer = await server.client.chat.completions.create(
        model="solemate", messages=long, max_tokens=5000
    )
    assert answer.usage is not None
    assert answer.usage.total_tokens <= 256


async def test_without_the_key_the_api_is_closed(start: Start) -> None:
    server = await start(keys=Keys("secret"))
    for path in ("/v1/models", "/health", "/metrics"):
        refused = await server.http.get(path, headers={"authorization": "Bearer wrong"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (401, "Unauthorized")
        known = await server.http.get(path, headers={"authorization": "Bearer secret"})
        assert known.status_code == 200
    assert await server.text() == ANSWER


async def test_adapters_are_loaded_with_a_key_of_their_own_where_there_is_one(
    start: Start, folders: Folders
) -> None:
    for keys, statuses in ((Keys("ask"), (200, 401)), (Keys("ask", "load"), (401, 200))):
        server = await start(keys=keys)
        for given, status in zip(("ask", "load"), statuses, strict=True):
            answer = await server.http.post(
                "/v1/load_lora_adapter",
                json={"lora_name": "new", "lora_path": str(folders.adapter)},
                headers={"authorization": f"Bearer {given}"},
            )
            assert answer.status_code == status
            assert await server.text() == ANSWER


async def test_models_are_listed_with_root_and_parent(server: Running, folders: Folders) -> None:
    base, boots = (await server.http.get("/v1/models")).json()["data"]
    assert (base["id"], base["root"], base["parent"]) == ("solemate", str(folders.model), None)
    assert (boots["id"], boots["root"]) == ("boots", str(folders.adapter))
    assert (boots["parent"], boots["max_model_len"]) == ("solemate", 256)


async def test_an_adapter_is_loaded_and_unloaded(server: Running, folders: Folders) -> None:
    loaded = await server.load("new", folders.adapter)
    assert (loaded.status_code, loaded.text) == (
        200,
        "Success: LoRA adapter 'new' added successfully.",
    )
    assert await server.text("new") == ADAPTED
    gone = await server.http.post("/v1/unload_lora_adapter", json={"lora_name": "new"})
    assert gone.text == "Success: LoRA adapter 'new' removed successfully."
    with pytest.raises(openai.NotFoundError):
        await server.text("new")


async def test_an_unloaded_adapter_ends_what_it_began(server: Running) -> None:
    stream = await server.client.chat.completions.create(
        **(ASK | {"model": "boots"}), temperature=0.0, stream=True
    )
    pieces = [(await anext(stream)).choices[0].delta.content or ""]
    await server.http.post("/v1/unload_lora_adapter", json={"lora_name": "boots"})
    pieces += [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == ADAPTED


async def test_the_same_name_twice_is_a_400(server: Running, folders: Folders) -> None:
    response = await server.load("boots", folders.adapter)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "InvalidUserInput"
    assert "has already been loaded" in response.json()["error"]["message"]


async def test_an_adapter_is_replaced_in_place_when_asked(server: Running, broken: Path) -> None:
    def silence(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.zero_()

    edit_weights(broken, silence)
    assert (await server.load("boots", broken, load_inplace=True)).status_code == 200
    assert await server.text("boots") == ANSWER


async def test_the_base_models_name_cannot_be_taken(server: Running, folders: Folders) -> None:
    assert (await server.load("solemate", folders.adapter)).status_code == 400


async def test_loading_needs_name_and_path(server: Running) -> None:
    response = await server.http.post("/v1/load_lora_adapter", json={"lora_name": "x"})
    assert response.status_code == 400
    assert "must be provided" in response.json()["error"]["message"]


async def test_a_missing_folder_is_a_404(server: Running, tmp_path: Path) -> None:
    response = await server.load("x", tmp_path / "gone")
    assert response.status_code == 404
    assert "No adapter found for" in response.json()["error"]["message"]


async def test_unloading_an_unknown_adapter_is_a_404(server: Running) -> None:
    response = await server.http.post("/v1/unload_lora_adapter", json={"lora_name": "x"})
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "The lora adapter 'x' cannot be found."


def pickled(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def disguised(folder: Path) -> None:
    torch.save({"x": torch.zeros(1)}, folder / "adapter_model.safetensors")


def truncated(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def not_finite(folder: Path) -> None:
    edit_weights(folder, lambda tensors: next(iter(tensors.values())).fill_(float("nan")))


def incomplete(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.popitem())


def of_other_shape(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update({min(tensors): torch.zeros(8, 48)}))


def with_more(folder: Path) -> None:
    edit_weights(folder, lambda tensors: tensors.update(other=torch.zeros(1)))


def without_config_json(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def with_dora(folder: Path) -> None:
    edit_config(folder, use_dora=True)


def with_whole_layers(folder: Path) -> None:
    edit_config(folder, modules_to_save=["lm_head"])


def of_high_rank(folder: Path) -> None:
    edit_config(folder, r=512)


def of_another_base(folder: Path) -> None:
    other = folder / "base"
    other.mkdir()
    save_file({"x": torch.zeros(1)}, other / "model.safetensors")
    edit_config(folder, base_model_name_or_path=str(other))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (pickled, "a pickle"),
        (disguised, "cannot be read as safetensors"),
        (truncated, "cannot be read as safetensors"),
        (not_finite, "no numbers"),
        (incomplete, "lacks the weights"),
        (of_other_shape, "does not fit"),
        (with_more, "belongs to no layer"),
        (without_config_json, "not a plain LoRA adapter"),
        (with_dora, "use_dora"),
        (with_whole_layers, "modules_to_save"),
        (of_high_rank, "rank 64 or less"),
        (of_another_base, "weights differ"),
    ],
)
async def test_a_bad_adapter_is_a_500_and_the_old_one_goes_on(
    server: Running, broken: Path, damage: Callable[[Path], None], words: str
) -> None:
    damage(broken)
    response = await server.load("boots", broken, load_inplace=True)
    assert response.status_code == 500
    assert words in response.json()["error"]["message"]
    assert await server.text("boots") == ADAPTED


async def test_lora_arithmetic_is_that_of_peft(folders: Folders) -> None:
    model = load_model(folders.model)
    tokens = torch.tensor([model.encode(ASK["messages"])])
    adapted = PeftModel.from_pretrained(
        LlamaForCausalLM.from_pretrained(folders.model, dtype=torch.float32), folders.adapter
    )
    weights = read_adapter(folders.adapter, model.network, folders.model)
    rows = RowAdapters(model.network)
    with torch.inference_mode(), rows.applied([None, weights]):
        base, ours = model.network(tokens.repeat(2, 1)).logits
    theirs = adapted(tokens).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(base, theirs, atol=1e-1)


async def test_metrics_count_what_happened(server: Running) -> None:
    await server.text()
    await server.text("boots")
    assert await server.metric('vllm:request_success_total{finished_reason="stop"') == 2
    spoken = len(ANSWER.encode()) + len(ADAPTED.encode())
    assert await server.metric("vllm:generation_tokens_total") == spoken
    assert await server.metric("vllm:time_to_first_token_seconds_count") == 2
    assert await server.metric("vllm:num_requests_waiting") == 0


async def test_dashboards_find_the_figures_that_they_ask_for(server: Running) -> None:
    await server.text()
    page = (await server.http.get("/metrics")).text
    deploy = Path(__file__).parents[2] / "deploy"
    files = [*deploy.glob("grafana/dashboards/*.json"), deploy / "prometheus" / "alerts.yml"]
    asked = {name for file in files for name in re.findall(r"vllm:\w+", file.read_text("utf-8"))}
    assert asked
    assert asked <= set(re.findall(r"vllm:\w+", page))


async def test_a_taken_port_is_one_clear_sentence(folders: Folders) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ServerOptions(folders.model, "solemate", "127.0.0.1", port)
        with pytest.raises(ConfigError, match=f"Port {port} .* cannot be used"):
            async with running(options):
                pytest.fail("the server started")


async def test_a_missing_model_is_one_clear_sentence(tmp_path: Path) -> None:
    options = ServerOptions(tmp_path / "gone", "solemate", "127.0.0.1", 0)
    with pytest.raises(NotFound, match="There is no model in"):
        async with running(options):
            pytest.fail("the server started")


@pytest.fixture
def model(folders: Folders) -> LanguageModel:
    return load_model(folders.model)


@pytest.fixture
def endless(model: LanguageModel) -> Iterator[Decoder]:
    with Decoder(model.network, model.decode, frozenset()) as decoder:
        yield decoder


async def test_stopping_ends_running_answers_with_an_error(endless: Decoder) -> None:
    generation = endless.submit(Request(tokens=(5, 6), max_tokens=200, temperature=2.0, seed=1))
    chunks = generation.chunks()
    assert isinstance(await anext(chunks), Chunk)
    endless.stop()
    with pytest.raises(ModelUnavailable, match="stopped"):
        [chunk async for chunk in chunks]
    with pytest.raises(Busy, match="stopping"):
        endless.submit(Request(tokens=(5,), max_tokens=1))


def test_a_loop_is_the_same_few_tokens_again_and_again() -> None:
    assert loops([1, 2, 3] * 9)
    assert not loops([1, 2, 3] * 8)
    assert not loops(list(range(200)))


async def test_a_greedy_loop_ends_with_length(endless: Decoder) -> None:
    generation = endless.submit(Request(tokens=(5,), max_tokens=10_000, temperature=0.0))
    last = [chunk async for chunk in generation.chunks()][-1]
    assert last.finish_reason == "length"
    assert last.tokens < 1000


def decode_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


def test_text_is_held_until_a_character_is_whole() -> None:
    stream = TextStream(decode_bytes, ())
    assert [stream.push(byte) for byte in "鞋a".encode()] == ["", "", "鞋", "a"]


def test_bytes_that_are_no_text_are_dropped() -> None:
    stream = TextStream(decode_bytes, ())
    assert "".join(stream.push(byte) for byte in b"\xff\xfeok") == "ok"


def test_what_might_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(decode_bytes, ("END",))
    assert [stream.push(byte) for byte in b"aENb"] == ["a", "", "", "ENb"]
    assert not stream.stopped


def test_nothing_of_a_stop_string_is_told() -> None:
    stream = TextStream(decode_bytes, ("END",))
    assert "".join(stream.push(byte) for byte in b"aEND") == "a"
    assert stream.stopped
