import asyncio
import contextlib
import time

import pytest
from documents import ATTACKS, COUNTER, DEAD_COUNTER, HONEST, document

from evolpo import InputError
from evolpo.rewards.frontend import tab as tab_module
from evolpo.rewards.frontend.browser import BrowserThread, find_chromium, shared_browser
from evolpo.rewards.frontend.extract import Page
from evolpo.rewards.frontend.function import exercise
from evolpo.rewards.frontend.tab import PageFaultError, PageHangError


def buttons(report):
    return {name.partition(" ")[2]: verdict for name, verdict in report.controls.verdicts.items()}


@pytest.fixture(scope="module")
def reports(run):
    """Of all honest pages and all attacks, made at the same time."""
    pages = {**HONEST, **ATTACKS}
    return dict(zip(pages, run(*(exercise(Page(html)) for html in pages.values())), strict=True))


def test_honest_pages_work(reports):
    for name in HONEST:
        assert reports[name].score == pytest.approx(1.0), (name, reports[name])
    assert buttons(reports["counter"]) == {"button Reset": "works", "button Down": "works", "button Up": "works"}
    assert buttons(reports["todo"])["button Clear"] == "works"
    assert "controls" not in reports["article"].terms
    assert buttons(reports["form"])["button Send"] == "works"
    assert [len(reports["form"].screenshots), reports["form"].screenshots[0][:4]] == [3, b"\x89PNG"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_is_gained_by(reports, attack):
    assert reports[attack].score < min(reports[name].score for name in HONEST) - 0.2


@pytest.mark.parametrize("attack", ["churn with dead buttons", "any click does it", "invisible reaction"])
def test_dead_buttons_stay_dead_under(reports, attack):
    assert set(buttons(reports[attack]).values()) == {"dead"}


def test_hangs_are_told_from_blank_pages(reports):
    assert "hangs" in reports["infinite loop"].failure
    assert "hangs" in reports["busy sleep"].failure
    assert "blank" in reports["blank"].failure
    assert "blank" in reports["sleep"].failure


def test_network_is_refused_and_counted(reports):
    assert any(one == "refused: https://example.com/page" for one in reports["network fetch"].messages)


def test_every_way_out_is_closed(run):
    seen = []

    async def serve():
        async def answer(reader, writer):
            seen.append(await reader.readline())
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        body = f"""<h1>One</h1><p>Two</p><p>Three</p><p>Four</p><img src="http://{address}/image" alt="x">
        <script>new WebSocket("ws://{address}/socket"); navigator.sendBeacon("http://{address}/beacon");
        new Worker(URL.createObjectURL(new Blob(["fetch('http://{address}/worker')"])));
        const link = document.createElement("link"); link.rel = "preconnect"; link.href = "http://{address}/";
        document.head.append(link);</script>"""
        report = await exercise(Page(document(body)))
        server.close()
        return report

    [report] = run(serve())
    assert seen == []
    assert sum(one.startswith("refused: ") for one in report.messages) >= 3


def test_errors_overflow_and_accessibility_lower_their_terms(run):
    broken, wide, poor = run(
        exercise(Page(COUNTER.replace("</script>", "nowhere(); Promise.reject(new Error('later'));</script>"))),
        exercise(Page(COUNTER.replace("<main>", '<main><div style="width: 700px">Wide</div>'))),
        exercise(
            Page(COUNTER.replace(' lang="en"', "").replace("<main>", '<main><img src="data:image/gif;base64,R0">'))
        ),
    )
    assert any("nowhere is not defined" in one for one in broken.messages)
    assert broken.terms["errors"] == pytest.approx(1 / 2)  # The script ends at its first error.
    assert wide.overflow[1280] == 0
    assert wide.overflow[375] > 300
    assert wide.terms["layout"] == pytest.approx(2 / 3, abs=0.02)
    assert {"html-has-lang", "image-alt"} <= {rule for rule, _ in poor.violations}
    assert poor.terms["accessibility"] < 0.7
    assert poor.terms["errors"] == pytest.approx(1 / 2)  # A broken image.


def test_text_that_runs_into_other_text_lowers_the_layout(run):
    paragraphs = "".join(f"<p>Paragraph number {i} with some words</p>" for i in range(8))
    two = (
        '<div style="position: relative"><p>Below</p><p style="position: absolute; top: 0; margin: 0{}">Above</p></div>'
    )
    over, hidden = two.format(""), two.format("; opacity: 0")
    apart, one, all_over = run(
        exercise(Page(document(f"<main>{paragraphs}{hidden}</main>"))),
        exercise(Page(document(f"<main>{paragraphs}{over}</main>"))),
        exercise(Page(document(f"<style>p + p {{ margin-top: -30px }}</style><main>{paragraphs}</main>"))),
    )
    assert apart.terms["layout"] == 1
    assert one.terms["layout"] == pytest.approx(1 - 2 * 2 / 10)
    assert all_over.terms["layout"] == 0


def test_linked_files_are_served_and_missing_ones_named(run):
    html = COUNTER.replace(
        "</head>", '<link rel="stylesheet" href="css/style.css"><script src="gone.js"></script></head>'
    )
    [report] = run(exercise(Page(html, {"css/style.css": "main { width: 2000px }"})))
    assert report.overflow[1280] > 500
    assert report.messages == ("missing: gone.js",)


def test_keys_of_a_game_and_unknown_styles(run):
    game = document(
        """<main><h1>Game</h1><p>Use the arrows.</p><canvas id="board" width="300" height="100"></canvas>
        </main><script>let x = 0; const pen = document.getElementById("board").getContext("2d");
        const draw = () => { pen.clearRect(0, 0, 300, 100); pen.fillRect(x, 20, 40, 40); };
        addEventListener("keydown", (event) => { if (event.key === "ArrowRight") { x += 10; draw(); } });
        draw();</script>"""
    )
    [live, deaf] = run(
        exercise(Page(game), [("color", "red"), ("colour", "red")]),
        exercise(Page(game.replace("ArrowRight", "F13"))),
    )
    assert live.controls.verdicts == {"keys": "works"}
    assert deaf.controls.verdicts == {"keys": "dead"}
    assert live.terms["styles"] == 0.0


def test_covered_button_and_dialog(run):
    covered = COUNTER.replace(
        '<button id="up"', '<div style="position: absolute; inset: 140px 0 0 0"></div><button id="up"'
    )
    dialog = DEAD_COUNTER.replace('id="up"', "onclick=\"alert('up')\"")
    first, second = run(exercise(Page(covered)), exercise(Page(dialog)))
    assert set(buttons(first).values()) == {"covered"}
    assert first.terms["controls"] == 0.0
    assert buttons(second) == {"button Reset": "dead", "button Down": "dead", "button Up": "dead"}


def test_a_search_does_not_hide_what_is_used_after_it(run):
    """What is typed leaves no row: sorting shows nothing then, and works on a load with empty fields."""
    html = document(
        """<main><h1>Trains</h1><label>Search <input id="search"></label> <button id="sort">Sort</button>
        <ul id="rows"></ul></main>
        <script>
          let rows = ["Bath", "Ayr", "Corfe"];
          const search = document.getElementById("search");
          const draw = () => document.getElementById("rows").replaceChildren(
            ...rows.filter((row) => row.includes(search.value)).map((row) => {
              const item = document.createElement("li");
              item.textContent = row;
              return item;
            }));
          search.oninput = draw;
          document.getElementById("sort").onclick = () => { rows.sort(); draw(); };
          draw();
        </script>"""
    )
    [report] = run(exercise(Page(html)))
    assert buttons(report)["button Sort"] == "works"


def test_controls_that_are_drawn_anew_are_still_used(run):
    """Every click draws the whole list again, and with it the buttons that are still to be used."""
    html = document(
        """<main><h1>Steps</h1><ol id="steps"></ol></main>
        <script>
          const done = [false, false, false];
          const draw = () => document.getElementById("steps").replaceChildren(...done.map((one, index) => {
            const item = document.createElement("li");
            const button = document.createElement("button");
            button.textContent = `Step ${index + 1}${one ? " done" : ""}`;
            button.onclick = () => { done[index] = true; draw(); };
            item.append(button);
            return item;
          }));
          draw();
        </script>"""
    )
    [report] = run(exercise(Page(html)))
    assert list(buttons(report).values()) == ["works", "works", "works"]


def test_controls_that_depend_on_each_other(run):
    html = document(
        """<main><h1>Tabs</h1><button class="tab">One</button> <button class="tab">Two</button>
        <div role="button" tabindex="0" id="open">Open</div>
        <dialog id="dialog"><p>Hello</p><button id="close">Close</button></dialog>
        <a href="#end">End</a> <a href="#">Nothing</a> <a href="#gone">Gone</a> <a href="https://example.com/">Away</a>
        <p id="panel">Panel 0</p><section id="end" style="margin-top: 1500px">The end</section></main>
        <script>
          const find = (name) => document.getElementById(name);
          document.querySelectorAll(".tab").forEach((tab, index) => {
            tab.onclick = () => { find("panel").textContent = `Panel ${index}`; };
          });
          find("open").addEventListener("click", () => find("dialog").showModal());
          find("close").addEventListener("click", () => find("dialog").close());
        </script>"""
    )
    [report] = run(exercise(Page(html)))
    assert buttons(report) == {
        "button One": "works",  # Only after Two.
        "button Two": "works",
        "div Open": "works",  # What it covers is used on a load of its own.
        "a End": "works",
        "a Nothing": "dead",
        "a Gone": "dead",
        "a Away": "neutral",
    }


@pytest.mark.parametrize("where", ["location.href = 'https://example.com/'", "location.reload()"])
def test_page_cannot_leave(run, where):
    [report] = run(exercise(Page(COUNTER.replace("</script>", f"{where};</script>"))))
    assert set(buttons(report).values()) == {"works"}


def test_shadow_trees_are_seen_and_used(run):
    html = document(
        """<count-box></count-box><script>
        customElements.define("count-box", class extends HTMLElement {
          connectedCallback() {
            const root = this.attachShadow({mode: "open"});
            root.innerHTML = "<h1>Count</h1><p>Clicks so far</p><p id='n'>none</p><p>More below</p>" +
              "<button id='more'>More</button> <button>Dead</button>";
            let n = 0;
            root.querySelector("#more").onclick = () => { root.querySelector("#n").textContent = ++n; };
          }
        });</script>"""
    )
    [report] = run(exercise(Page(html)))
    assert report.content == 1.0
    assert buttons(report) == {"button More": "works", "button Dead": "dead"}


SPIN = "const end = performance.now(); let x = 0; for (let i = 0; i < 3e7; i++) x += Math.sqrt(i);"
HEAVY = document(
    f"""<main><h1>Waves</h1><p>Sea without end</p><p>and wind</p>
    <canvas width="300" height="200"></canvas></main><script>
    const c = document.querySelector("canvas").getContext("2d");
    (function frame(t) {{ {SPIN} c.fillStyle = x > t ? "#26a" : "#fff"; c.fillRect(20, 20, 200, 90);
      requestAnimationFrame(frame); }})(0);</script>"""
)


def test_heavy_animations_drop_frames_and_are_judged(run):
    async def frames(page):
        async def work(browser):
            async with browser.open(page) as tab:
                await tab.find_step()
                return tab.step_ms

        return await shared_browser().run(work, 60.0)

    [report, light, heavy] = run(exercise(Page(HEAVY)), frames(Page(COUNTER)), frames(Page(HEAVY)))
    assert report.failure == ""
    assert light == 0
    assert heavy in tab_module.SLOW_STEPS_MS


def test_a_step_runs_each_timer_once(run):
    page = document(
        """<main><h1>Ticks</h1><p>0</p></main><script>let n = 0;
        setInterval(() => { document.querySelector("p").textContent = ++n; }, 10);</script>"""
    )

    async def ticks(step_ms):
        async def work(browser):
            async with browser.open(Page(page, step_ms=step_ms)) as tab:
                await tab.wait(500)
                return int(await tab.evaluate("document.querySelector('p').textContent"))

        return await shared_browser().run(work, 60.0)

    every, few = run(ticks(0), ticks(250))
    assert every == 50
    assert few <= 4


def test_the_same_page_gives_the_same_report(run):
    page = Page(COUNTER.replace("show(count + 1)", "show(Math.random() + Date.now() + crypto.randomUUID())"))
    first, second = run(exercise(page), exercise(page))
    assert (first.terms, first.controls, first.screenshots) == (second.terms, second.controls, second.screenshots)


def test_browser_that_hangs_is_killed_and_replaced(run, monkeypatch):
    import psutil

    monkeypatch.setattr(tab_module, "STEP_TIMEOUT_S", 6.0)
    thread = BrowserThread()

    def processes():
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # It may be ending just now.
                if thread._mark in " ".join(process.cmdline()):
                    found.append(process)
        return found

    async def stall(browser):
        async with browser.open(Page(COUNTER)) as tab:
            for process in processes():
                process.suspend()
            await tab.evaluate("1")

    async def hang(browser):
        async with browser.open(Page(COUNTER)) as tab:
            await tab.evaluate("for (;;) {}")

    async def work(browser):
        async with browser.open(Page(COUNTER)) as tab:
            return await tab.evaluate("1 + 1")

    try:
        with pytest.raises(TimeoutError, match="was killed"):
            asyncio.run(thread.run(stall, 30.0))
        assert asyncio.run(thread.run(work, 30.0)) == 2
        started = time.perf_counter()
        with pytest.raises(PageHangError):
            asyncio.run(thread.run(hang, 120.0))
        assert time.perf_counter() - started < 110  # Of the clock, on a busy machine: not the deadline noticed it.
        assert asyncio.run(thread.run(work, 30.0)) == 2
        alive = processes()
    finally:
        thread.close()
    psutil.wait_procs(alive, timeout=5)
    assert not any(one.is_running() for one in alive)


@pytest.mark.parametrize(("failures", "well"), [(12, True), (13, False)])
def test_a_picture_is_taken_again_if_the_frame_was_thrown_away(run, failures, well):
    """In fast animations Chromium says so now and then."""
    from playwright.async_api import Error

    async def work(browser):
        async with browser.open(Page(COUNTER)) as tab:
            real, left = tab.playwright.screenshot, failures

            async def screenshot(**given):
                nonlocal left
                left -= 1
                if left >= 0:
                    raise Error("Protocol error (Page.captureScreenshot): Unable to capture screenshot")
                return await real(**given)

            tab.playwright.screenshot = screenshot
            tries.append(1)
            return await tab.screenshot()

    tries = []
    job = shared_browser().run(work, 60.0)
    if well:
        assert run(job)[0].startswith(b"\x89PNG")
    else:
        with pytest.raises(PageFaultError, match="Unable to capture"):
            run(job)
        assert len(tries) == 2


def test_missing_chromium_is_said(monkeypatch):
    monkeypatch.setenv("EVOLPO_CHROMIUM", "/no/such/chromium")
    with pytest.raises(InputError, match="'/no/such/chromium', which is no program; apt-get install chromium"):
        find_chromium()
    monkeypatch.delenv("EVOLPO_CHROMIUM")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="there is no chromium in \\$PATH; apt-get install chromium"):
        find_chromium()


def test_the_chromium_without_windows_is_taken_if_it_is_there(monkeypatch, tmp_path):
    monkeypatch.delenv("EVOLPO_CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("chromium-browser", "chromium", "chromium-headless-shell"):
        (tmp_path / name).write_text("#!/bin/sh")
        (tmp_path / name).chmod(0o755)
        assert find_chromium() == str(tmp_path / name)


def test_one_browser_for_all():
    assert shared_browser() is shared_browser()
