"""The chat page in headless Chromium, on the real engine, store and lanes; the model is a fake."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Route,
    expect,
    sync_playwright,
)
from playwright.sync_api import Request as PageRequest

from bots.allowance import Allowance, Limits
from bots.feeds import Feeds
from bots.lanes import Lanes
from bots.web.chat import mount_chat
from bots.web.desk import Desk
from core.engine import Engine, Options
from core.errors import SolemateError, StoreError
from core.inbox import Inbox
from core.messages import (
    Feedback,
    ImageTag,
    Passage,
    Platform,
    Rating,
    Reason,
    UserMessage,
    Winner,
)
from core.model import Sampling
from core.notices import Notices
from core.photos import PhotoLimits
from core.prompt import Budget, estimate_tokens
from core.retrieval import Relevance, Retrieved
from core.settings import Duels as DuelSettings
from core.store import Store
from core.tables import duels
from core.wording import say
from tests.bots.desks import NO_DUELS, open_duels, teach
from tests.fakes import FakeChatModel, FakeRetriever, FakeVision, RetellingModel

T = TypeVar("T")

expect.set_options(timeout=20_000)

MAX_CHARACTERS = 400
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.long,
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and "CI" not in os.environ,
        reason="no Chromium found; install the package chromium to run the page's tests",
    ),
]


def _passage(name: str, title: str, text: str) -> Passage:
    return Passage(name, title, text, "written for this project", "care", "zh", 0.9)


CANVAS = _passage(
    "canvas",
    "帆布鞋清洗",
    "帆布鞋清洗时先拆下鞋带和鞋垫，用温水加中性洗涤剂和软毛刷顺着布纹刷。"
    "帆布鞋不要长时间浸泡，泡久了胶水容易变弱，深色布也容易掉色。冲净后在鞋里塞白纸吸水定型，再阴干。",
)
YELLOW = _passage(
    "yellow",
    "帆布鞋面",
    "白帆布洗后发黄多半是洗涤剂没冲净或暴晒，冲透后裹白纸巾阴干能减轻。",
)
TRAINER = _passage(
    "trainer",
    "German army trainer",
    "The German army trainer began as an indoor training shoe issued to German soldiers and is now "
    "a common low casual sneaker. Its marks are a pale leather upper, suede panels at the toe and "
    "a flat gum-coloured sole.",
)
HOSTILE = _passage(
    "hostile",
    "<b>Hostile</b> notes",
    'The sole is <img src=x onerror="window.hacked=1"> <script>window.hacked=2</script> '
    "[flat](javascript:window.hacked=3) and `${window.hacked=4}` plain.",
)
FOUND = {
    "发黄": Retrieved(Relevance.ANSWER, (CANVAS, YELLOW)),
    "帆布": Retrieved(Relevance.ANSWER, (CANVAS, YELLOW)),
    "trainer": Retrieved(Relevance.ANSWER, (TRAINER,)),
    "hostile": Retrieved(Relevance.ANSWER, (HOSTILE,)),
    "哪种": Retrieved(Relevance.CLARIFY, (CANVAS, YELLOW)),
}

# What the model says when it is asked once more.
OTHER = "先拆下鞋带和鞋垫，用温水加中性洗涤剂和软毛刷顺着布纹刷，冲净后在鞋里塞白纸，再阴干。"

SEEN = (
    ImageTag("白色", "white", "colour", 0.82),
    ImageTag("帆布鞋", "canvas shoe", "type", 0.55, sure=False),
)


class Site:
    """The page on a port of its own, in a thread with its own event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="site")
        # It listens from now on, so the first page may be asked for before the server runs.
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Site:
        self._thread.start()
        self._ready.result(timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self.model_gate(open_=True)
        self._loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)
        self._thread.join(timeout=60)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the site's own loop, for example read its store."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    def model_gate(self, *, open_: bool) -> None:
        """Let answers through, or hold them at their first half."""
        gate = self.model.gate
        self._loop.call_soon_threadsafe(gate.set if open_ else gate.clear)

    async def _serve(self) -> None:
        try:
            async with AsyncExitStack() as stack:
                app = await self._app(stack)
                config = uvicorn.Config(app, log_level="error", lifespan="on")
                self._server = uvicorn.Server(config)
                self._ready.set_result(None)
                await self._server.serve(sockets=[self._socket])
        except BaseException as exc:
            if not self._ready.done():
                self._ready.set_exception(exc)
            raise

    async def _app(self, stack: AsyncExitStack) -> FastAPI:
        self._loop = asyncio.get_running_loop()
        self.model = RetellingModel()
        self.other = FakeChatModel([OTHER])
        self.retriever = FakeRetriever(FOUND)
        self.store = await stack.enter_async_context(Store(f"sqlite:///{self._folder}/test.db"))
        limits = PhotoLimits(max_bytes=2_000_000, max_pixels=10_000_000)
        self.desk = self._desk(limits)
        await stack.enter_async_context(self.desk.lanes.running())
        app = FastAPI()
        mount_chat(app, self.desk, storage_secret="for tests")
        return app

    def _desk(self, limits: PhotoLimits) -> Desk:
        inbox, feeds = Inbox(self.store, owner="test", depth=20), Feeds()
        engine = Engine(
            store=self.store,
            retriever=self.retriever,
            vision=FakeVision(seen=SEEN, colours_only=False),
            model=self.model,
            choose_adapter=_always_base,
            options=Options(
                base_model="solemate",
                sampling=Sampling(200, 0.0),
                budget=Budget(2000, estimate_tokens),
                photo_limits=limits,
                max_characters=MAX_CHARACTERS,
                rounds=10,
                expire_seconds=3600,
                min_support=0.3,
                history_rounds=5,
                rewrite="carry",
            ),
        )
        lanes = Lanes(
            inbox=inbox,
            store=self.store,
            engine=engine,
            bots={Platform.WEB: feeds},
            limits=Limits(Allowance(1000, 1000, 10000)),
            width=8,
        )
        duels = open_duels(self.store, self.other, NO_DUELS)
        return Desk(self.store, inbox, engine, lanes, feeds, limits, duels, Notices(self.store))


async def _always_base(_: str) -> str:
    return "solemate"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visitor:
    """A person with a browser of their own; complains about whatever the page complains about."""

    def __init__(self, browser: Browser, site: Site, size: str, **options: Any) -> None:
        width, height = SIZES[size]
        options = {"locale": "zh-CN", "viewport": {"width": width, "height": height}} | options
        self.site = site
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.context.on("console", self._on_console)
        self.context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        self.context.on("request", self._on_request)
        self.page = self.open()

    def open(self, address: str = "/") -> Page:
        page = self.context.new_page()
        page.goto(self.site.url + address)
        page.locator("html[data-theme]").wait_for()
        page.wait_for_function("window.did_handshake")
        return page

    @property
    def box(self) -> Any:
        return self.page.locator(".entry textarea")

    @property
    def answers(self) -> Any:
        return self.page.locator(".answer:has(.tools)")

    def ask(self, text: str) -> Any:
        """Ask, and wait for the whole answer; returns it."""
        count = self.answers.count()
        self.box.fill(text)
        self.box.press("Enter")
        answer = self.answers.nth(count)
        answer.wait_for()
        return answer

    def press(self, key: str, **values: object) -> None:
        self.page.get_by_role("button", name=say(key, "zh", **values), exact=True).last.click()

    @property
    def conversation(self) -> str:
        return self.page.url.rpartition("?c=")[2]

    def turns(self) -> Sequence[Any]:
        return self.site.run(self.site.desk.conversation(self.conversation))

    def verdict(self) -> Feedback | None:
        turn = self.turns()[-1]
        return self.site.run(self.site.store.verdict(turn.reply.id, turn.user_id))

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_function("window.did_handshake")

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _on_request(self, request: PageRequest) -> None:
        if not request.url.startswith((self.site.url, "blob:", "data:")):
            self.complaints.append(f"a request to {request.url}")


Visit = Callable[..., Visitor]


@pytest.fixture
def visit(browser: Browser, site: Site) -> Iterator[Visit]:
    """Make visitors; at the end none of them may have seen an error or a foreign request."""
    visitors: list[Visitor] = []

    def visit(size: str = "desktop", **options: Any) -> Visitor:
        visitors.append(Visitor(browser, site, size, **options))
        return visitors[-1]

    site.model.away = False
    site.model_gate(open_=True)
    yield visit
    site.model_gate(open_=True)
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.complaints for visitor in visitors] == [[] for _ in visitors]


@pytest.fixture(params=SIZES)
def visitor(request: pytest.FixtureRequest, visit: Visit) -> Visitor:
    """Somebody new, on a desktop and on a phone."""
    return visit(request.param)


def photo(colour: str = "white") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (320, 240), colour).save(file, "PNG")
    return file.getvalue()


def picked(name: str = "shoe.png", data: bytes | None = None) -> dict[str, Any]:
    return {"name": name, "mimeType": "image/png", "buffer": data or photo()}


# Hands a photo to the page as a paste or a drop would.
HAND_OVER = """([kind, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "shoe.png", { type: "image/png" }));
    const box = document.querySelector(".entry textarea");
    const options = { bubbles: true, cancelable: true };
    box.dispatchEvent(kind === "paste"
        ? new ClipboardEvent("paste", { ...options, clipboardData: data })
        : new DragEvent("drop", { ...options, dataTransfer: data }));
}"""


def test_an_answer_grows_and_its_sources_unfold(visitor: Visitor) -> None:
    visitor.site.model_gate(open_=False)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    growing = visitor.page.locator(".prose.growing")
    expect(growing).to_contain_text("帆布鞋清洗时先拆下鞋带")
    expect(growing).not_to_contain_text("再阴干")
    visitor.site.model_gate(open_=True)
    expect(visitor.answers.first).to_contain_text("再阴干")
    source = visitor.page.locator(".sources li")
    expect(source).to_be_hidden()
    visitor.page.locator("summary", has_text="资料来源（1）").click()
    expect(source).to_be_visible()
    expect(source).to_contain_text("帆布鞋清洗")
    expect(source).to_contain_text("written for this project")


def test_what_unfolds_at_the_end_of_the_thread_comes_into_view(visit: Visit) -> None:
    visitor = visit()
    visitor.page.set_viewport_size({"width": 900, "height": 420})
    visitor.ask("帆布鞋怎么洗？")
    visitor.page.locator("summary").click()
    expect(visitor.page.locator(".sources li")).to_be_in_viewport(ratio=1)


def test_the_form_of_an_answer_further_up_comes_into_view(visit: Visit) -> None:
    visitor = visit()
    visitor.page.set_viewport_size({"width": 900, "height": 520})
    visitor.ask("帆布鞋怎么洗？")
    visitor.ask("帆布会发黄吗？")
    visitor.page.locator(".question").first.scroll_into_view_if_needed()
    visitor.page.get_by_role("button", name="没帮助").first.click()
    expect(visitor.page.locator(".why")).to_be_in_viewport(ratio=0.95)


def test_a_follow_up_belongs_to_the_same_conversation(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    visitor.ask("帆布会发黄吗？")
    assert [turn.question for turn in visitor.turns()] == ["帆布鞋怎么洗？", "帆布会发黄吗？"]
    assert any("帆布鞋怎么洗？" in one.content for one in visitor.site.model.prompts[-1][1:-1])


@pytest.mark.parametrize(
    ("way", "size"), [("button", "phone"), ("paste", "desktop"), ("drop", "desktop")]
)
def test_a_photo_shows_what_was_recognised_on_it(visit: Visit, way: str, size: str) -> None:
    visitor = visit(size)
    if way == "button":
        visitor.page.locator("input[type=file]").set_input_files(picked())
    else:
        visitor.page.evaluate(HAND_OVER, [way, list(photo())])
    expect(visitor.page.locator(".previews img")).to_have_count(1)
    visitor.ask("帆布鞋能机洗吗？")
    expect(visitor.page.locator(".previews")).to_have_count(0)
    expect(visitor.page.locator(".tags .tag")).to_have_text(["白色", "可能是帆布鞋"])
    shown = "document.querySelector('.photos img').naturalWidth"
    visitor.page.wait_for_function(f"{shown} === 320")
    visitor.reload()
    visitor.page.wait_for_function(f"{shown} === 320")
    expect(visitor.page.locator(".tags .tag")).to_have_text(["白色", "可能是帆布鞋"])


def test_a_photo_can_be_removed_before_it_is_sent(visit: Visit) -> None:
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files([picked("a.png"), picked("b.png")])
    visitor.press("remove_photo")
    expect(visitor.page.locator(".previews img")).to_have_count(1)
    visitor.press("remove_photo")
    expect(visitor.page.locator(".previews")).to_have_count(0)
    expect(visitor.page.get_by_role("button", name="发送")).to_be_disabled()


def test_a_photo_alone_is_a_message(visit: Visit) -> None:
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files(picked())
    visitor.press("send")
    expect(visitor.answers.first).to_contain_text("照片里我看到")


def test_a_thumb_down_is_stored_before_its_form_opens(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    visitor.press("thumb_down")
    form = visitor.page.get_by_role("form", name="哪里不好？")
    expect(form).to_be_visible()
    verdict = visitor.verdict()
    assert verdict is not None
    assert (verdict.rating, verdict.reason) == (Rating.DOWN, None)


def test_a_reason_and_a_correction_are_stored_and_shown_after_a_reload(visitor: Visitor) -> None:
    visitor.ask("帆布鞋怎么洗？")
    visitor.press("thumb_down")
    visitor.press("reason_wrong_facts")
    expect(visitor.page.get_by_role("button", name="事实不对")).to_have_attribute(
        "aria-pressed", "true"
    )
    visitor.page.get_by_label("我应该怎么回答？（可不填）").fill("帆布鞋可以用洗衣袋机洗。")
    visitor.press("submit")
    expect(visitor.page.locator(".why")).to_have_count(0)
    verdict = visitor.verdict()
    assert verdict is not None
    assert verdict.reason is Reason.WRONG_FACTS
    assert verdict.correction == "帆布鞋可以用洗衣袋机洗。"
    visitor.reload()
    down = visitor.page.get_by_role("button", name="没帮助")
    expect(down).to_have_attribute("aria-pressed", "true")
    down.click()
    expect(visitor.page.get_by_label("我应该怎么回答？（可不填）")).to_have_value(
        "帆布鞋可以用洗衣袋机洗。"
    )


def test_the_last_thumb_counts(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    visitor.press("thumb_down")
    visitor.press("thumb_up")
    up = visitor.page.get_by_role("button", name="有帮助")
    expect(up).to_have_attribute("aria-pressed", "true")
    expect(visitor.page.locator(".why")).to_have_count(0)
    verdict = visitor.verdict()
    assert verdict is not None
    assert verdict.rating is Rating.UP


def test_typing_a_correction_survives_another_answer(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    visitor.press("thumb_down")
    correction = visitor.page.get_by_label("我应该怎么回答？（可不填）")
    correction.fill("还没写完")
    visitor.ask("帆布会发黄吗？")
    expect(correction).to_have_value("还没写完")


def test_whoever_has_to_wait_is_told_their_number_until_it_is_their_turn(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def behind(_: Lanes, __: UserMessage) -> int:
        return 3

    monkeypatch.setattr(Lanes, "behind", behind)
    visitor, number = visit("phone"), say("in_line", "zh", number=4)
    visitor.site.model_gate(open_=False)
    for question in ("帆布鞋怎么洗？", "洗后发黄怎么办？"):
        visitor.box.fill(question)
        visitor.box.press("Enter")
        expect(visitor.box).to_have_value("")
    expect(visitor.page.locator(".answer .status", has_text=number)).to_be_visible()
    visitor.reload()
    expect(visitor.page.locator(".answer .status", has_text=number)).to_be_visible()
    visitor.site.model_gate(open_=True)
    expect(visitor.answers).to_have_count(2)
    expect(visitor.page.locator(".answer", has_text=number)).to_have_count(0)


def test_a_reload_keeps_the_conversation(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    visitor.reload()
    expect(visitor.page.locator(".bubble")).to_have_text("帆布鞋怎么洗？")
    expect(visitor.answers).to_have_count(1)


def test_what_was_typed_survives_a_reload(visit: Visit) -> None:
    visitor = visit()
    visitor.box.fill("还没发出去")
    visitor.reload()
    expect(visitor.box).to_have_value("还没发出去")


def test_a_reload_in_the_middle_resumes_the_answer(visit: Visit) -> None:
    visitor = visit()
    visitor.site.model_gate(open_=False)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.locator(".prose.growing")).to_contain_text("先拆下鞋带")
    visitor.reload()
    expect(visitor.page.locator(".prose.growing")).to_contain_text("先拆下鞋带")
    visitor.site.model_gate(open_=True)
    expect(visitor.answers.first).to_contain_text("再阴干")
    assert len(visitor.turns()) == 1


def test_an_answer_that_ends_while_the_page_loads_is_shown(visit: Visit) -> None:
    """After the page was made, and before its browser has connected."""
    visitor = visit()
    visitor.site.model_gate(open_=False)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.locator(".prose.growing")).to_contain_text("先拆下鞋带")

    def hold(route: Route) -> None:
        visitor.site.model_gate(open_=True)
        while not visitor.turns():
            time.sleep(0.05)
        route.continue_()

    visitor.page.route("**/nicegui.js", hold)
    visitor.reload()
    expect(visitor.answers).to_have_count(1)
    expect(visitor.answers.first).to_contain_text("再阴干")
    expect(visitor.page.locator("#conversations nav")).to_contain_text("帆布鞋怎么洗？")


def test_a_dropped_connection_resumes_the_answer(visit: Visit) -> None:
    visitor = visit("phone")
    visitor.site.model_gate(open_=False)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.locator(".prose.growing")).to_contain_text("先拆下鞋带")
    visitor.context.set_offline(True)
    visitor.page.evaluate("window.socket.io.engine.close()")
    expect(visitor.page.locator("#popup")).to_have_attribute("aria-hidden", "false")
    expect(visitor.page.locator("#popup")).to_have_text("连接断了，正在重连…")
    visitor.site.model_gate(open_=True)
    visitor.context.set_offline(False)
    expect(visitor.answers.first).to_contain_text("再阴干")
    expect(visitor.page.locator(".answer")).to_have_count(1)
    visitor.complaints = [one for one in visitor.complaints if "ERR_INTERNET_DISCONN" not in one]


def test_an_answer_goes_on_when_the_tab_closes(visit: Visit) -> None:
    visitor = visit()
    visitor.site.model_gate(open_=False)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.locator(".prose.growing")).to_contain_text("先拆下鞋带")
    address = f"/?c={visitor.conversation}"
    visitor.page.close()
    visitor.site.model_gate(open_=True)
    visitor.page = visitor.open(address)
    expect(visitor.answers.first).to_contain_text("再阴干")


def test_a_double_click_sends_once(visit: Visit) -> None:
    visitor = visit("phone")
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.page.get_by_role("button", name="发送").dblclick()
    visitor.answers.first.wait_for()
    visitor.ask("帆布会发黄吗？")
    assert len(visitor.turns()) == 2


def test_a_double_enter_sends_once(visit: Visit) -> None:
    visitor = visit()
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.page.evaluate(
        """() => { for (let i = 0; i < 2; i++) document.querySelector(".entry textarea")
            .dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", cancelable: true })) }"""
    )
    visitor.answers.first.wait_for()
    visitor.ask("帆布会发黄吗？")
    assert len(visitor.turns()) == 2


def test_a_lost_confirmation_is_asked_for_again_and_answered_once(visit: Visit) -> None:
    visitor = visit()
    lost: list[str] = []

    def lose_the_first(route: Any) -> None:
        response = route.fetch()
        lost.append(route.request.url)
        if len(lost) == 1:
            route.abort()
        else:
            route.fulfill(response=response)

    visitor.page.route("**/page/messages", lose_the_first)
    visitor.ask("帆布鞋怎么洗？")
    visitor.ask("帆布会发黄吗？")
    assert len(lost) == 3
    assert len(visitor.turns()) == 2
    visitor.complaints = [one for one in visitor.complaints if "ERR_FAILED" not in one]


def test_an_enter_that_chooses_a_word_does_not_send(visit: Visit) -> None:
    visitor = visit()
    visitor.box.fill("帆布")
    visitor.page.evaluate(
        """() => document.querySelector(".entry textarea").dispatchEvent(new KeyboardEvent(
            "keydown", { key: "Enter", isComposing: true, cancelable: true }))"""
    )
    expect(visitor.box).to_have_value("帆布")
    expect(visitor.page.locator(".question")).to_have_count(0)


def test_stop_ends_the_answer_where_it_is(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = visit()
    lanes, heard = visitor.site.desk.lanes, threading.Event()
    stop = lanes.stop

    async def stop_and_tell(conversation_id: str, message_id: str) -> bool:
        stopped = await stop(conversation_id, message_id)
        heard.set()
        return stopped

    monkeypatch.setattr(lanes, "stop", stop_and_tell)
    visitor.site.model_gate(open_=False)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.locator(".prose.growing")).to_contain_text("先拆下鞋带")
    visitor.press("stop")
    assert heard.wait(timeout=20)
    visitor.site.model_gate(open_=True)
    expect(visitor.answers.first).to_contain_text("（已停止）")
    expect(visitor.page.get_by_role("button", name="发送")).to_be_visible()


def test_the_browser_chooses_the_first_language(visit: Visit) -> None:
    english = visit(locale="en-US")
    expect(english.page.get_by_role("heading")).to_have_text("Let’s talk shoes")
    assert english.page.locator("html").get_attribute("lang") == "en"


def test_a_person_switches_the_language_and_it_is_remembered(visit: Visit) -> None:
    visitor = visit("phone")
    expect(visitor.page.get_by_role("heading")).to_have_text("聊聊鞋吧")
    visitor.box.fill("还没发出去")
    _open_drawer(visitor)
    visitor.press("language")
    expect(visitor.page.get_by_role("heading")).to_have_text("Let’s talk shoes")
    expect(visitor.box).to_have_value("还没发出去")
    assert visitor.page.locator("html").get_attribute("lang") == "en"
    later = visitor.open()
    expect(later.get_by_role("heading")).to_have_text("Let’s talk shoes")


def test_the_system_chooses_the_first_theme(visit: Visit) -> None:
    visitor = visit(color_scheme="dark")
    expect(visitor.page.locator("html")).to_have_attribute("data-theme", "dark")
    visitor.page.emulate_media(color_scheme="light")
    expect(visitor.page.locator("html")).to_have_attribute("data-theme", "light")


def test_a_person_switches_the_theme_and_it_is_remembered(visit: Visit) -> None:
    visitor = visit()
    _open_drawer(visitor)
    visitor.press("dark_mode")
    expect(visitor.page.locator("html")).to_have_attribute("data-theme", "dark")
    visitor.reload()
    expect(visitor.page.locator("html")).to_have_attribute("data-theme", "dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    assert visitor.page.evaluate(paper) == "rgb(25, 22, 19)"


def test_everything_can_be_done_with_the_keyboard(visit: Visit) -> None:
    visitor = visit()
    keyboard = visitor.page.keyboard
    keyboard.type("帆布鞋")
    keyboard.press("Shift+Enter")
    keyboard.type("怎么洗？")
    expect(visitor.box).to_have_value("帆布鞋\n怎么洗？")
    keyboard.press("Enter")
    visitor.answers.first.wait_for()
    expect(visitor.box).to_be_focused()
    _tab_to(visitor, "没帮助", key="Shift+Tab")
    keyboard.press("Enter")
    form = visitor.page.locator(".why")
    expect(form).to_be_visible()
    _tab_to(visitor, "没回答问题")
    keyboard.press("Space")
    expect(visitor.page.get_by_role("button", name="没回答问题")).to_have_attribute(
        "aria-pressed", "true"
    )
    keyboard.press("Escape")
    expect(form).to_have_count(0)
    _tab_to(visitor, "资料来源（1）", key="Shift+Tab")
    keyboard.press("Enter")
    expect(visitor.page.locator(".sources li")).to_be_visible()
    _tab_to(visitor, "删除对话", key="Shift+Tab")
    keyboard.press("Enter")
    dialog = visitor.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    assert len(visitor.turns()) == 1


def test_what_has_the_focus_is_seen_to_have_it(visit: Visit) -> None:
    visitor = visit()
    _tab_to(visitor, "深色模式", key="Shift+Tab")
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert visitor.page.evaluate(style) == "solid"


def test_the_drawer_opens_takes_the_focus_and_closes_with_escape(visit: Visit) -> None:
    visitor = visit("phone")
    sidebar = visitor.page.locator(".sidebar")
    expect(sidebar).to_be_hidden()
    _open_drawer(visitor)
    expect(visitor.page.locator(".sidebar .new")).to_be_focused()
    visitor.page.keyboard.press("Escape")
    expect(sidebar).to_be_hidden()
    expect(visitor.page.get_by_role("button", name="对话列表")).to_be_focused()


def test_a_screen_reader_hears_the_answer_once_and_finds_a_name_on_everything(
    visit: Visit,
) -> None:
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files(picked())
    visitor.ask("帆布鞋怎么洗？")
    live = visitor.page.locator("[aria-live=polite]")
    expect(live).to_contain_text("再阴干")
    visitor.press("thumb_down")
    expect(visitor.page.locator(".why")).to_be_visible()
    nameless = visitor.page.evaluate(
        """() => [...document.querySelectorAll("button, a, textarea, img")]
            .filter((one) => !(one.ariaLabel || one.alt || one.textContent.trim()
                || one.querySelector("img[alt]")))
            .map((one) => one.outerHTML)"""
    )
    assert nameless == []


def test_markup_stays_text_whoever_wrote_it(visit: Visit) -> None:
    visitor = visit()
    attack = "hostile <img src=x onerror='window.hacked=5'> </script><script>window.hacked=6"
    answer = visitor.ask(attack)
    visitor.page.locator("summary").click()
    for _ in range(2):
        expect(visitor.page.locator(".bubble")).to_have_text(attack)
        expect(answer.locator(".prose")).to_contain_text("<script>window.hacked=2")
        expect(answer.locator(".sources strong")).to_have_text("<b>Hostile</b> notes")
        assert visitor.page.locator(".column :is(script, b, img)").count() == 0
        assert visitor.page.evaluate("window.hacked") is None
        visitor.reload()


def test_nobody_else_sees_a_conversation_or_its_photos(visit: Visit) -> None:
    owner, stranger = visit(), visit()
    owner.page.locator("input[type=file]").set_input_files(picked())
    owner.ask("帆布鞋怎么洗？")
    source = owner.page.locator(".photos img").get_attribute("src")
    assert owner.context.request.get(f"{owner.site.url}/{source}").status == 200
    assert stranger.context.request.get(f"{owner.site.url}/{source}").status == 404
    page = stranger.open(f"/?c={owner.conversation}")
    expect(page.get_by_role("heading")).to_have_text("聊聊鞋吧")
    expect(page.locator(".question")).to_have_count(0)
    expect(page.locator(".sidebar li")).to_have_count(0)


def test_nobody_else_can_write_into_a_conversation(visit: Visit) -> None:
    owner, stranger = visit(), visit()
    owner.ask("帆布鞋怎么洗？")
    form = {"id": "a-foreign-message", "conversation": owner.conversation, "text": "帆布"}
    answer = stranger.context.request.post(f"{owner.site.url}/page/messages", multipart=dict(form))
    assert answer.status == 404
    assert len(owner.turns()) == 1


def test_a_message_that_is_too_long_stays_in_the_box(visit: Visit) -> None:
    visitor = visit()
    text = "帆" * (MAX_CHARACTERS + 1)
    visitor.box.fill(text)
    visitor.box.press("Enter")
    expect(visitor.page.get_by_role("alert")).to_have_text(
        say("text_long", "zh", length=len(text), limit=MAX_CHARACTERS)
    )
    expect(visitor.box).to_have_value(text)
    visitor.complaints = [one for one in visitor.complaints if "413" not in one]


def test_a_photo_that_cannot_be_read_is_refused_and_nothing_is_lost(visit: Visit) -> None:
    visitor = visit()
    visitor.page.locator("input[type=file]").set_input_files(picked(data=b"%PDF-1.7 no photo"))
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.get_by_role("alert")).to_have_text(say("photo_format", "zh"))
    expect(visitor.box).to_have_value("帆布鞋怎么洗？")
    expect(visitor.page.locator(".previews li")).to_have_count(1)
    visitor.complaints = [one for one in visitor.complaints if "415" not in one]


def test_a_fifth_photo_and_a_huge_one_are_refused_before_they_travel(visit: Visit) -> None:
    visitor = visit()
    files = visitor.page.locator("input[type=file]")
    files.set_input_files([picked(f"{number}.png") for number in range(5)])
    expect(visitor.page.get_by_role("alert")).to_have_text(say("photo_many", "zh", limit=4))
    expect(visitor.page.locator(".previews li")).to_have_count(4)
    visitor.press("remove_photo")
    files.set_input_files(picked(data=b"\xff\xd8\xff" * 1_000_000))
    expect(visitor.page.get_by_role("alert")).to_have_text(say("photo_large", "zh"))


def test_a_message_that_cannot_be_stored_stays_in_the_box(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full_disk(_: object) -> bool:
        raise StoreError("The disk is full.")

    visitor = visit()
    monkeypatch.setattr(visitor.site.desk.inbox, "take", full_disk)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.get_by_role("alert")).to_have_text(say("not_saved", "zh"))
    expect(visitor.box).to_have_value("帆布鞋怎么洗？")
    visitor.complaints = [one for one in visitor.complaints if "503" not in one]


def test_a_verdict_that_cannot_be_stored_is_not_shown_as_stored(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full_disk(*_: object, **more: object) -> None:
        raise StoreError("The disk is full.")

    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    monkeypatch.setattr(visitor.site.store, "add_feedback", full_disk)
    visitor.press("thumb_down")
    expect(visitor.page.locator(".note")).to_have_text(say("not_stored", "zh"))
    expect(visitor.page.locator(".why")).to_have_count(0)
    expect(visitor.page.get_by_role("button", name="没帮助")).to_have_attribute(
        "aria-pressed", "false"
    )


def test_a_message_that_got_no_answer_comes_back_into_the_box(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise OSError("The index is gone.")

    visitor = visit()
    monkeypatch.setattr(visitor.site.retriever, "search", broken)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.locator(".answer .problem")).to_have_text(say("failed", "zh"))
    expect(visitor.box).to_have_value("帆布鞋怎么洗？")


def test_a_message_that_fails_before_the_browser_hears_of_it_gets_its_apology(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise OSError("The index is gone.")

    async def failed(conversation_id: str, message_id: str) -> None:
        with pytest.raises(SolemateError):
            async for _ in visitor.site.desk.follow(Platform.WEB, conversation_id, message_id):
                pass

    def answer_late(route: Route) -> None:
        response = route.fetch()
        form = str(route.request.post_data)
        fields = dict(re.findall(r'name="(\w+)"\s+(\w+)', form))
        visitor.site.run(failed(fields["conversation"], fields["id"]))
        route.fulfill(response=response)

    visitor = visit()
    monkeypatch.setattr(visitor.site.retriever, "search", broken)
    visitor.page.route("**/page/messages", answer_late)
    visitor.box.fill("帆布鞋怎么洗？")
    visitor.box.press("Enter")
    expect(visitor.page.locator(".bubble")).to_have_text("帆布鞋怎么洗？")
    expect(visitor.page.locator(".answer .problem")).to_have_text(say("failed", "zh"))


def test_a_message_that_got_no_answer_stays_in_its_place_with_the_apology(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: object) -> None:
        raise OSError("The index is gone.")

    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    with monkeypatch.context() as patch:
        patch.setattr(visitor.site.retriever, "search", broken)
        visitor.page.locator("input[type=file]").set_input_files(picked())
        visitor.box.fill("帆布会发黄吗？")
        visitor.box.press("Enter")
        expect(visitor.page.locator(".answer .problem")).to_have_text(say("failed", "zh"))
    visitor.ask("帆布鞋能机洗吗？")
    visitor.reload()
    expect(visitor.page.locator(".bubble")).to_have_text(
        ["帆布鞋怎么洗？", "帆布会发黄吗？", "帆布鞋能机洗吗？"]
    )
    expect(visitor.page.locator(".answer").nth(1)).to_have_text(say("failed", "zh"))
    shown = "image => image.decode().then(() => image.naturalWidth)"
    assert visitor.page.locator(".question img").first.evaluate(shown) == 320


def test_a_page_that_cannot_be_read_from_the_store_says_so(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full_disk(*_: object) -> None:
        raise StoreError("The disk is full.")

    visitor = visit()
    monkeypatch.setattr(visitor.site.store, "conversations_of", full_disk)
    visitor.reload()
    expect(visitor.page.get_by_role("alert")).to_have_text(say("page_failed", "zh"))


def test_an_address_that_has_nothing_leads_back_to_the_chat(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    answer = page.goto(f"{visitor.site.url}/nothing")
    assert answer is not None
    assert answer.status == 404
    expect(page.locator("p")).to_have_text(say("no_page", "zh"))
    assert visitor.complaints.pop().startswith("Failed to load resource")
    page.get_by_role("link", name=say("to_chat", "zh")).click()
    expect(visitor.box).to_be_visible()
    told = page.request.get(f"{visitor.site.url}/nothing", headers={"Accept": "*/*"})
    assert told.status == 404
    assert told.json()["error"]["code"] == "no_route"


def test_a_suggestion_sends_itself_and_leaves_when_the_talk_moves_on(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("是哪种？")
    visitor.page.get_by_role("button", name="帆布鞋清洗").dblclick()
    expect(visitor.answers).to_have_count(2)
    expect(visitor.page.locator(".bubble").last).to_have_text("帆布鞋清洗")
    expect(visitor.page.locator(".choices")).to_have_count(0)
    assert len(visitor.turns()) == 2


def test_an_example_sends_itself(visit: Visit) -> None:
    visitor = visit()
    visitor.page.get_by_role("button", name=say("example_1", "zh")).click()
    expect(visitor.answers.first).to_contain_text("先拆下鞋带")
    expect(visitor.page.get_by_role("heading")).to_have_count(0)


def test_a_quote_looks_like_one(visit: Visit) -> None:
    visitor = visit()
    visitor.site.model.away = True
    answer = visitor.ask("帆布鞋怎么洗？")
    expect(answer.locator("blockquote")).to_have_text(CANVAS.text)
    expect(answer.locator(".prose")).to_contain_text("先引用资料《帆布鞋清洗》的原文")
    expect(answer.locator(".adapter")).to_have_count(0)


def test_the_answer_can_be_copied(visit: Visit) -> None:
    visitor = visit(permissions=["clipboard-read", "clipboard-write"])
    visitor.ask("帆布鞋怎么洗？")
    visitor.press("copy")
    expect(visitor.page.get_by_role("button", name="已复制")).to_be_visible()
    assert visitor.page.evaluate("navigator.clipboard.readText()") == visitor.turns()[-1].reply.text


def test_conversations_are_listed_opened_and_begun_anew(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    first = visitor.conversation
    _open_drawer(visitor)
    visitor.page.locator(".sidebar .new").click()
    visitor.page.get_by_role("heading").wait_for()
    visitor.page.wait_for_function("window.did_handshake")
    visitor.ask("帆布会发黄吗？")
    assert visitor.conversation != first
    _open_drawer(visitor)
    links = visitor.page.locator(".sidebar li a")
    expect(links).to_have_text(["帆布会发黄吗？", "帆布鞋怎么洗？"])
    links.last.click()
    expect(visitor.page.locator(".bubble")).to_have_text("帆布鞋怎么洗？")


def test_a_conversation_is_deleted_once_that_is_confirmed(visit: Visit) -> None:
    visitor = visit("phone")
    visitor.ask("帆布鞋怎么洗？")
    conversation = visitor.conversation
    _open_drawer(visitor)
    visitor.press("delete_conversation")
    visitor.press("cancel")
    expect(visitor.page.locator(".sidebar li")).to_have_count(1)
    visitor.press("delete_conversation")
    visitor.press("delete")
    visitor.page.get_by_role("heading").wait_for()
    assert visitor.site.run(visitor.site.desk.conversation(conversation)) == ()


def test_a_conversation_that_cannot_be_deleted_stays_and_says_so(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full_disk(_: object) -> None:
        raise StoreError("The disk is full.")

    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    monkeypatch.setattr(visitor.site.store, "delete_conversation", full_disk)
    visitor.press("delete_conversation")
    visitor.press("delete")
    expect(visitor.page.get_by_role("alert")).to_contain_text(say("not_saved", "zh"))
    expect(visitor.page.locator(".sidebar li")).to_have_count(1)


def test_nothing_sticks_out_of_a_narrow_screen(visit: Visit) -> None:
    visitor = visit("phone", viewport={"width": 360, "height": 640})
    width = "document.documentElement.scrollWidth"
    assert visitor.page.evaluate(width) == 360
    visitor.ask("trainer " + "x" * 300)
    visitor.press("thumb_down")
    expect(visitor.page.locator(".why")).to_be_visible()
    beyond = visitor.page.evaluate(
        """() => [...document.querySelectorAll(".main *")]
            .filter((one) => one.getBoundingClientRect().right > 360.5)
            .map((one) => one.className)"""
    )
    assert beyond == []


def _open_drawer(visitor: Visitor) -> None:
    menu = visitor.page.get_by_role("button", name="对话列表")
    if menu.is_visible():
        menu.click()
        expect(visitor.page.locator(".sidebar")).to_be_in_viewport(ratio=1)


def _tab_to(visitor: Visitor, name: str, *, key: str = "Tab") -> None:
    focused = """() => { const one = document.activeElement;
        return one.ariaLabel || one.textContent.trim(); }"""
    for _ in range(40):
        if visitor.page.evaluate(focused) == name:
            return
        visitor.page.keyboard.press(key)
    raise AssertionError(f"No {key} reaches {name!r}.")


# Two answers side by side.


# NiceGUI has one page for each path in a process, so there can be no second site.
@pytest.fixture
def arena(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site, where everybody is asked to compare for a while."""
    rules = DuelSettings(share=1.0, disliked_share=1.0, per_person_per_day=100)
    monkeypatch.setattr(site.desk.duels, "_rules", rules)
    return site


@pytest.fixture(params=SIZES)
def asked(request: pytest.FixtureRequest, browser: Browser, arena: Site) -> Iterator[Visitor]:
    """Somebody who has an answer, and is asked to compare it with another."""
    visitor = Visitor(browser, arena, request.param)
    visitor.ask("帆布鞋怎么洗？")
    visitor.page.locator(".duel").wait_for()
    yield visitor
    visitor.context.close()
    assert visitor.complaints == []


def winners(visitor: Visitor) -> list[str | None]:
    """What became of the person's duels."""
    user_id = visitor.turns()[-1].user_id
    query = sa.select(duels.c.winner).where(duels.c.user_id == user_id)
    work = visitor.site.store.run(lambda connection: connection.execute(query).scalars().all())
    return list(visitor.site.run(work))


def test_two_answers_stand_side_by_side_and_the_better_one_is_kept(asked: Visitor) -> None:
    panel = asked.page.locator(".duel")
    texts = panel.locator(".duel-side .prose").all_inner_texts()
    assert sorted(texts) == sorted([OTHER, asked.turns()[-1].reply.text])
    first, second = (one.bounding_box() for one in panel.locator(".duel-side").all())
    wide = asked.page.viewport_size["width"] > 800
    assert (abs(first["y"] - second["y"]) < 8) is wide
    better = "a" if texts[0] == OTHER else "b"
    asked.press("duel_pick", side=better.upper())
    expect(panel.locator(".note")).to_have_text(say("duel_thanks", "zh"))
    expect(panel.get_by_role("button")).to_have_count(0)
    expect(panel.locator(".picked .prose")).to_have_text(OTHER)
    assert winners(asked) == [Winner.SECOND]
    asked.reload()
    expect(asked.page.locator(".duel")).to_have_count(0)


def test_a_duel_that_was_not_answered_is_there_again_and_asked_once(asked: Visitor) -> None:
    asked.reload()
    asked.page.locator(".duel").wait_for()
    asked.press("duel_same")
    expect(asked.page.locator(".duel .note")).to_have_text(say("duel_thanks", "zh"))
    assert winners(asked) == [Winner.NEITHER]


def test_whoever_does_not_want_to_be_asked_says_so_and_can_change_their_mind(
    asked: Visitor,
) -> None:
    asked.press("duel_off")
    expect(asked.page.locator(".duel .note")).to_have_text(say("duel_off_done", "zh"))
    user_id = asked.turns()[-1].user_id
    assert not asked.site.run(asked.site.store.wishes_of(user_id)).duels
    asked.ask("帆布鞋发黄怎么办？")
    asked.reload()
    if asked.page.viewport_size["width"] < 800:
        asked.press("conversations")
    switch = asked.page.get_by_role("switch", name=say("wish_duels", "zh"))
    expect(switch).to_have_attribute("aria-checked", "false")
    switch.click()
    expect(switch).to_have_attribute("aria-checked", "true")
    assert asked.site.run(asked.site.store.wishes_of(user_id)).duels
    assert len(winners(asked)) == 1


def test_whoever_taught_something_is_told_at_their_next_visit_once(visit: Visit) -> None:
    visitor = visit()
    visitor.ask("帆布鞋怎么洗？")
    turn = visitor.turns()[-1]
    text = "先拆鞋带，再用软毛刷 <b>轻轻</b> 刷。"
    visitor.site.run(teach(visitor.site.store, turn.reply.id, turn.user_id, text))
    visitor.reload()
    told = visitor.page.locator(".taught")
    expect(told).to_contain_text(text)
    visitor.reload()
    visitor.answers.first.wait_for()
    expect(told).to_have_count(0)
    visitor.page.get_by_role("switch", name=say("wish_tell", "zh")).click()
    expect(visitor.page.get_by_role("switch", name=say("wish_tell", "zh"))).to_have_attribute(
        "aria-checked", "false"
    )
    assert not visitor.site.run(visitor.site.store.wishes_of(turn.user_id)).tell
