"""The page of a server in a real browser: ask, edit, explain, delete, roll back, without console messages."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.responses import HTMLResponse

from tests.reporting.test_report_browser import BROWSER, open_page
from tests.support.http_servers import MODEL, network_server
from tests.support.served_models import PROMPTS, fine_tuning

pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs a browser: install Debian's chromium")

# In a frame of the same origin, which a script can use as a person would.
_DRIVER = """<!DOCTYPE html><title></title><iframe src="/" style="width: WIDTHpx; height: 900px; border: 0"></iframe>
<script>
addEventListener("load", async () => {
  const inside = document.querySelector("iframe").contentDocument;
  const at = (id) => inside.getElementById(id);
  const text = (id) => at(id).textContent;
  const items = (id) => [...at(id).children].map((item) => item.querySelector("span").firstChild.textContent);
  const settled = async () => {
    do await new Promise((resolve) => setTimeout(resolve, 50)); while (inside.querySelector("form button:disabled"));
  };
  const type = (id, value) => { at(id).value = value; at(id).dispatchEvent(new Event("change")); };
  const press = async (button) => { button.click(); await settled(); };
  const seen = {};
  const look = (name) => { seen[name] = {
    version: text("version"), count: text("count"), base: text("base"), edited: text("edited"), why: text("why"),
    explained: text("tokens-explained"), status: text("status"), edits: items("edits"), versions: items("versions"),
    isError: at("status").classList.contains("bad"), askedVersion: text("edited-version"),
  }; };
  await settled();
  look("start");
  type("prompt", PROMPT);
  at("prompt").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", cancelable: true, bubbles: true }));
  await settled();
  look("asked");
  type("target", "Rome");
  await press(inside.querySelector("#edit button"));
  await press(inside.querySelector("#ask button"));
  look("edited");
  type("target", "London");
  await press(inside.querySelector("#edit button"));
  await press(at("edits").querySelector("button"));
  look("deleted");
  await press(at("versions").lastElementChild.querySelector("button"));
  await press(inside.querySelector("#ask button"));
  look("rolled back");
  document.querySelector("iframe").style.height = "300px";
  inside.defaultView.scrollTo(0, inside.documentElement.scrollHeight);
  await press(at("versions").lastElementChild.querySelector("button"));
  const place = at("status").getBoundingClientRect();
  seen.result = { top: place.top, bottom: place.bottom, height: inside.defaultView.innerHeight };
  const page = inside.documentElement;
  const small = [...inside.querySelectorAll("button")].filter((button) => button.offsetHeight < 40).length;
  seen.layout = { scrolled: page.scrollWidth, shown: page.clientWidth, small };
  document.title = JSON.stringify(seen);
});
</script>"""


def drive(folder: Path, profile: Path, width: int, hparams: Any = None) -> tuple[dict[str, Any], list[str]]:
    """Use the page of a new server; return what it showed after each step, and the console messages."""
    driver = _DRIVER.replace("WIDTH", str(width)).replace("PROMPT", json.dumps(PROMPTS[0]))

    def add_driver(app: Any) -> None:
        app.add_api_route("/drive", lambda: HTMLResponse(driver), methods=["GET"])

    with network_server(folder, add_driver, hparams) as (url, _):
        dom, console = open_page(f"{url}/drive", profile)
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title is not None and title[1], dom[:500]
    return json.loads(html.unescape(title[1])), console


@pytest.mark.parametrize("width", [390, 1280])
def test_a_fact_is_asked_edited_explained_deleted_and_rolled_back(tmp_path: Path, width: int) -> None:
    seen, console = drive(tmp_path / "edits", tmp_path / "profile", width)
    assert [line for line in console if "favicon" not in line] == []
    assert (seen["start"]["version"], seen["start"]["edits"], seen["start"]["status"]) == ("0", [], "")
    asked, edited, deleted, last = (seen[name] for name in ("asked", "edited", "deleted", "rolled back"))
    assert asked["base"] == asked["edited"] and asked["why"] == "No edit answered."
    assert edited["base"] == asked["base"] and edited["edited"].startswith("Rome")
    assert edited["why"] == "Answered by edit-1." and "replaced" in edited["explained"]
    assert edited["edits"] == [f"{PROMPTS[0]} → Rome"] and edited["count"] == "1 edit"
    assert deleted["status"] == "edit-2 is deleted; this is version 3."
    assert deleted["edits"] == edited["edits"]
    assert deleted["versions"] == ["3: delete edit-2", "2: edit edit-2", "1: edit edit-1", "0: base model"]
    assert (last["version"], last["edits"], last["edited"]) == ("4", [], asked["base"])
    assert last["versions"][0] == "4: rollback to version 0"
    assert [step["askedVersion"] for step in (asked, edited, deleted, last)] == [f", version {n}" for n in (0, 1, 1, 4)]
    result = seen["result"]
    assert -1 < result["top"] < result["bottom"] < result["height"] + 1, "the result of the last button can be seen"
    assert seen["layout"]["shown"] == width
    assert seen["layout"]["scrolled"] <= width
    assert seen["layout"]["small"] == 0, "buttons are large enough for a finger"


def test_the_page_names_its_model_and_shows_what_the_server_refuses(tmp_path: Path) -> None:
    from easyedit_lifelong.serving.access import Access

    with network_server(tmp_path / "edits", access=Access({"api": "k"})) as (url, _):
        dom, _ = open_page(url, tmp_path / "profile")
    assert "this server needs an API key" in dom
    assert '<p id="no-edits" hidden="">' in dom, "whether there are edits is not known"
    chat = [{"role": "system", "content": "the capital"}, {"role": "user", "content": "of France is"}]
    with network_server(tmp_path / "edits") as (url, _):
        httpx.post(f"{url}/v1/edits", json={"messages": chat, "target_new": "Rome"}, timeout=60).raise_for_status()
        dom, console = open_page(url, tmp_path / "profile")
    assert "<span>of France is (chat) → Rome<small" in dom
    assert f'<h1 id="model">{MODEL}</h1>' in dom
    assert console == []


def test_a_method_that_explains_nothing_says_so_beside_its_answers(tmp_path: Path) -> None:
    seen, _ = drive(tmp_path / "edits", tmp_path / "profile", 1280, fine_tuning())
    edited, deleted = seen["edited"], seen["deleted"]
    assert edited["why"] == "FT-L's edits can't be explained: its edits are in the weights and act at every token."
    assert (edited["status"], edited["isError"]) == ("", False)
    assert deleted["isError"] and "Roll back to a version without it" in deleted["status"]


def test_lists_that_are_not_shown_completely_say_so(tmp_path: Path) -> None:
    facts = [{"prompt": f"{PROMPTS[0]} {number}", "target_new": "Rome"} for number in range(101)]
    with network_server(tmp_path / "edits") as (url, _):
        for part in (facts[:100], facts[100:]):
            httpx.post(f"{url}/v1/edits", json=part, timeout=300).raise_for_status()
        dom, _ = open_page(url, tmp_path / "profile")
    assert "These are the latest 100 of 101." in dom
    assert dom.count("These are the latest") == 1
