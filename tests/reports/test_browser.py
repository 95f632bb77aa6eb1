# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser: it opens fast, its script runs, both themes show, nothing is fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from numabench import session
from numabench.reports import html
from numabench.series import Options
from tests.fakes import Fake, many
from tests.machine import facts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
LARGEST_BYTES = 6_000_000
MOST_TIMES = 20  # an empty page loads in some 15 ms and this one in three times that: far below 2 s
TIMED = """<script>addEventListener("load", () => {
  const beside = document.createElement("p");
  beside.id = "loaded";
  beside.textContent = performance.now();
  document.body.append(beside);
});</script></body>"""
PROBE = """<script>addEventListener("load", () => {
  const cell = document.querySelector("td[tabindex]"); cell.focus();
  const beside = document.createElement("p");
  beside.id = "probe";
  beside.textContent = [document.getElementById("tip").textContent === cell.dataset.tip,
    document.documentElement.scrollWidth <= innerWidth, performance.getEntriesByType("resource").length,
    document.querySelectorAll("svg [tabindex]").length > 0].join(" ");
  document.body.append(beside);
});</script></body>"""


# A finger: on a cell, beside a point of a curve, on nothing.
TAPPED = r"""<script>addEventListener("load", () => {
  const tip = document.getElementById("tip"), said = [];
  const tap = (on, x, y) => {
    on.dispatchEvent(new MouseEvent("click", { bubbles: true, clientX: x, clientY: y }));
    said.push(tip.classList.contains("on") ? tip.textContent : "");
  };
  const cell = document.querySelector("td[tabindex]"), mark = document.querySelector("svg .mark-symbol [tabindex]");
  tap(cell, 9, 9);
  const box = mark.getBoundingClientRect();
  tap(mark.closest("svg"), box.left + box.width / 2 + 9, box.top + box.height / 2 - 9);
  tap(document.body, 1, 1);
  const beside = document.createElement("p");
  beside.id = "tapped";
  beside.textContent = JSON.stringify([said[0] === cell.dataset.tip, / \[.*\]/.test(said[1]), said[2]]);
  document.body.append(beside);
});</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of seventeen nodes as a page."""
    folder = tmp_path_factory.mktemp("page")
    machine = facts.machine("128ia64-17n4s2c")
    record = session.run((), Options(profile="quick"), machine=machine, backend=Fake())
    assert len(record.machine.nodes) == 17
    out = folder / "report.html"
    out.write_text(html.page([record]))
    return out


def browse(page: Path, *words: str) -> str:
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
    command += [f"--user-data-dir={page.parent / 'profile'}", *words, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


@pytest.mark.parametrize("width", [400, 1280])
def test_script_runs_keyboard_shows_tips_and_nothing_is_fetched_or_too_wide(page: Path, width: int) -> None:
    probed = page.with_name(f"probed{width}.html")
    probed.write_text(page.read_text().replace("</body>", PROBE))
    text = browse(probed, f"--window-size={width},900", "--virtual-time-budget=3000", "--dump-dom")
    found = re.search(r'<p id="probe">([^<]*)</p>', text)
    assert found, "the script did not run to its end"
    assert found[1] == "true true 0 true"


def test_a_tap_shows_the_figures_as_the_mouse_does(page: Path) -> None:
    tapped = page.with_name("tapped.html")
    tapped.write_text(page.read_text().replace("</body>", TAPPED))
    found = re.search(r'<p id="tapped">([^<]*)</p>', browse(tapped, "--window-size=400,900", "--dump-dom"))
    assert found, "the script did not run to its end"
    assert found[1] == '[true,true,""]'


def load_ms(page: Path) -> float:
    """From the start of navigation to the end of the load event, by the page's own clock."""
    text = browse(page, "--dump-dom")
    found = re.search(r'<p id="loaded">([\d.]+)</p>', text)
    assert found, "the load event did not come"
    return float(found[1])


def test_load_event_of_sixteen_nodes_is_in_proportion_to_that_of_an_empty_page(tmp_path: Path) -> None:
    """A busy machine slows both; opened in turns."""
    record = session.run((), Options(profile="quick"), machine=many(16, 2), backend=Fake())
    assert len(record.machine.nodes) == 16
    texts = {"page": html.page([record]), "empty": "<!DOCTYPE html><title>empty</title><body></body>"}
    assert len(texts["page"].encode()) < LARGEST_BYTES
    took: dict[str, list[float]] = {name: [] for name in texts}
    for name, text in texts.items():
        (tmp_path / f"{name}.html").write_text(text.replace("</body>", TIMED))
    for _ in range(3):
        for name in texts:
            took[name].append(load_ms(tmp_path / f"{name}.html"))
    assert min(took["page"]) < MOST_TIMES * min(took["empty"]), took


def test_page_is_small_and_opens_no_slower_than_thrice_an_empty_one(page: Path) -> None:
    assert page.stat().st_size < LARGEST_BYTES
    empty = page.with_name("empty.html")
    empty.write_text("<!DOCTYPE html><title>empty</title>")
    took: dict[Path, list[float]] = {page: [], empty: []}
    for _ in range(3):
        for each, times in took.items():
            began = time.perf_counter()
            browse(each, "--dump-dom")
            times.append(time.perf_counter() - began)
    assert min(took[page]) < 3 * min(took[empty])


def test_both_themes_are_drawn(page: Path) -> None:
    shots = []
    for theme in ("light", "dark"):
        themed = page.with_name(f"{theme}.html")
        themed.write_text(page.read_text().replace('<html lang="en">', f'<html lang="en" data-theme="{theme}">'))
        shot = page.with_name(f"{theme}.png")
        browse(themed, "--window-size=1280,2000", f"--screenshot={shot}")
        shots.append(shot.read_bytes())
    assert all(shot.startswith(b"\x89PNG") and len(shot) > 50_000 for shot in shots)
    assert shots[0] != shots[1]
