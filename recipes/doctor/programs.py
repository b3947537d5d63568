"""What rewards need: the sandbox, Node, Chromium, fonts; a program and a page are really run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from evolpo import InputError
from evolpo.recipes.doctor.finding import CARE, GOOD, Finding

PATIENCE_S = 120.0
"""For the first page of a browser, on a busy machine."""
PAGE = "<!doctype html><title>doctor</title><h1 id=a>1</h1><script>a.textContent = 6 * 7</script>"
FRONTEND = "the frontend reward scores nothing here"
SAMPLES = {"English": "en", "Chinese": "zh", "emoji": "und-zsye"}
"""Writing by the language that fontconfig knows it under."""


def sandbox() -> Finding:
    """A program in bubblewrap, and how its memory and time are watched."""
    from evolpo.rewards.code.sandbox import SandboxError, SandboxMissing, run_sandboxed
    from evolpo.rewards.code.usage import accounting

    try:
        result = run_sandboxed(["sh", "-c", "echo $((6 * 7)); cat /etc/passwd 2>/dev/null"])
    except (SandboxMissing, SandboxError) as error:
        return Finding(CARE, "code cannot be sandboxed", "code_tests scores nothing here", str(error))
    watch = accounting()
    if result.stdout.strip() != b"42":
        return Finding(CARE, f"a program gave {result.stdout[:40]!r}", "code_tests scores nothing here", "report it")
    means = watch if "watching" not in watch else f"{watch}: a little less exact than cgroups v2"
    return Finding(GOOD, "a program ran in bubblewrap and saw no file of ours", means, figures={"watch": watch})


def node() -> Finding:
    """Node, for tests in JavaScript."""
    if (path := shutil.which("node")) is None:
        return Finding(CARE, "no Node", "code_tests scores no JavaScript", "apt-get install nodejs")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=False).stdout
    return Finding(GOOD, f"Node {version.strip()}", figures={"node": version.strip()})


def browser() -> Finding:
    """A page in Chromium."""
    from evolpo.rewards.frontend.browser import BrowserThread, find_chromium
    from evolpo.rewards.frontend.extract import Page

    try:
        thread = BrowserThread()
    except InputError as error:
        return Finding(CARE, "no browser", FRONTEND, str(error))

    async def work(own: BrowserThread) -> tuple[str, bytes]:
        async with own.open(Page(PAGE)) as tab:
            return str(await tab.evaluate("document.getElementById('a').textContent")), await tab.screenshot()

    try:
        import asyncio

        text, picture = asyncio.run(thread.run(work, PATIENCE_S))
    except Exception as error:  # noqa: BLE001 -- a browser that does not start says so in many ways
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        return Finding(
            CARE,
            f"Chromium does not run ({reason})",
            FRONTEND,
            "apt-get install chromium-headless-shell",
        )
    finally:
        thread.close()
    if text != "42" or not picture.startswith(b"\x89PNG"):
        return Finding(CARE, f"a page gave {text!r}", FRONTEND, "report it")
    return Finding(GOOD, f"a page ran in {Path(find_chromium()).name} and was drawn, {len(picture)} bytes")


def fonts() -> Finding:
    """Fonts for what pages are written in."""
    if shutil.which("fc-list") is None:
        return Finding(
            CARE, "no fontconfig", "fonts of pages are unknown", "apt-get install fontconfig fonts-liberation"
        )
    lacking = [name for name, tag in SAMPLES.items() if not _fonts(f":lang={tag}")]
    count = len(_fonts(":"))
    if lacking:
        means = f"{' and '.join(lacking)} in pages are drawn as boxes, and judged so"
        todo = "apt-get install fonts-liberation fonts-noto-cjk fonts-noto-color-emoji"
        return Finding(CARE, f"{count} fonts, none for {', '.join(lacking)}", means, todo, {"fonts": count})
    return Finding(GOOD, f"{count} fonts, for {', '.join(SAMPLES)}", figures={"fonts": count})


def _fonts(pattern: str) -> list[str]:
    command = ["fc-list", pattern, "family"]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.splitlines()
