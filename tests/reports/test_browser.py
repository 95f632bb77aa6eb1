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
from tests.fakes import Fake
from tests.machine import facts

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
LARGEST_BYTES = 6_000_000
PROBE = """<script>addEventListener("load", () => {
  const cell = document.querySelector("td[tabindex]"); cell.focus();
  const beside = document.createElement("p");
  beside.id = "probe";
  beside.textContent = [document.getElementById("tip").textContent === cell.dataset.tip,
    document.documentElement.scrollWidth <= innerWidth, performance.getEntriesByType("resource").length,
    document.querySelectorAll("svg [tabindex]").length > 0].join(" ");
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
