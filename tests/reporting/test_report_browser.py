"""A report in a real browser: it renders, has every section, logs nothing to the console, and fits a phone's screen."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from easyedit_lifelong.commands.main import main
from tests.support.report_runs import write_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: install Debian's chromium")


def open_page(page: Path | str, profile: Path) -> tuple[str, list[str]]:
    """Open a page, a file or a URL, in the browser; return its document and its console messages."""
    assert BROWSER is not None
    process = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            f"--user-data-dir={profile}",
            "--window-size=1280,900",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            "--dump-dom",
            page if isinstance(page, str) else page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return process.stdout, [line for line in process.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of two runs, of both together, and of a run without results."""
    folder = tmp_path_factory.mktemp("reports")
    runs = {
        "grace": [write_run(folder / "g", edits=60, failed=2)],
        "coachhook": [write_run(folder / "c", method="CoachHook", edits=40, batch=10)],
        "empty": [write_run(folder / "e", edits=0, points=0, finished=False)],
    }
    runs["both"] = runs["grace"] + runs["coachhook"]
    for name, folders in runs.items():
        assert main(["report", *map(str, folders), "--out", str(folder / f"{name}.html")]) == 0
    return {name: folder / f"{name}.html" for name in runs}


@pytest.mark.parametrize(
    ("name", "sections"),
    [
        ("grace", ["scores", "codebook", "time", "generations", "failed", "config", "versions"]),
        ("coachhook", ["scores", "hooks", "time", "generations", "config", "versions"]),
        ("both", ["overview", "scores", "curves", "generations", "failed", "runs", "config", "versions"]),
        ("empty", ["scores", "codebook", "time", "generations", "config", "versions"]),
    ],
)
def test_a_page_renders_every_section_without_console_messages(
    pages: dict[str, Path], tmp_path: Path, name: str, sections: list[str]
) -> None:
    dom, console = open_page(pages[name], tmp_path)
    assert console == []
    assert re.findall(r'<section id="([\w-]+)"', dom) == sections
    assert dom.count("<svg") == pages[name].read_text().count("<svg")


def test_the_browser_reports_forbidden_content(pages: dict[str, Path], tmp_path: Path) -> None:
    """Without this, an empty console would prove nothing: the page's policy makes the browser log forbidden content."""
    broken = tmp_path / "broken.html"
    broken.write_text(pages["grace"].read_text().replace("</main>", "<script>1</script><img src='x.png'></main>"))
    assert len(open_page(broken, tmp_path / "profile")[1]) >= 2


# In a frame, because a window of this browser can't be as narrow as a phone's screen.
_MEASURE = """<!DOCTYPE html><title></title><iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{page}">
</iframe><script>
addEventListener("load", () => {{
  const inside = document.querySelector("iframe").contentDocument, page = inside.documentElement;
  for (const details of inside.querySelectorAll("details")) details.open = true;
  const ink = inside.defaultView.getComputedStyle(inside.querySelector("figure svg text"));
  document.title = [page.scrollWidth, page.clientWidth, ink.fill, ink.fontFamily].join("|");
}});
</script>"""


@pytest.mark.parametrize("name", ["grace", "both"])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_its_window(pages: dict[str, Path], tmp_path: Path, name: str, width: int) -> None:
    measured = tmp_path / "measured.html"
    page = html.escape(re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", pages[name].read_text()))
    measured.write_text(_MEASURE.format(width=width, page=page))
    dom, _ = open_page(measured, tmp_path / "profile")
    scrolled, shown, ink, family = re.search(r"<title>(.*?)</title>", dom)[1].split("|")  # type: ignore[index]
    assert int(shown) == width
    assert int(scrolled) <= width, "the page is wider than its window when all parts are open"
    assert ink != "rgb(0, 0, 0)" and "system-ui" in family, "figures don't use the page's colours and typeface"
