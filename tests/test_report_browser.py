"""The report in a real browser: nothing in the console, nothing wider than the screen."""

import json
import math
import re
import shutil
import subprocess

import pytest

from analysis.fit import fit
from analysis.fits_file import read_fits
from analysis.multiplier import Multiplier
from analysis.points import points_from_records
from analysis.report import write_comparison, write_report
from analysis.report_compare import NamedFit
from analysis.report_worth import Worth
from tests.report_inputs import HOSTILE, planted_curves, planted_records, points_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# A headless window is never narrower than 500 px, so the screen is a frame of its width; what the
# probe sees in it leaves through a message and --dump-dom.
FRAME = """<!doctype html><meta charset="utf-8"><style>body {{ margin: 0 }}</style>
<script>addEventListener("message", (e) => document.body.dataset.probe = e.data)</script>
<iframe src="{uri}" style="width: {width}px; height: 900px; border: 0"></iframe>
"""
PROBE = """
<script>
addEventListener("load", () => {
  const wide = document.documentElement.clientWidth;
  const shown = (e) => e.getClientRects().length > 0;
  const outside = [...document.querySelectorAll("p, h1, h2, li, figure, nav, pre, .scroll")]
    .filter((e) => shown(e) && e.getBoundingClientRect().right > wide + 1)
    .map((e) => e.tagName + " " + e.textContent.slice(0, 40));
  const texts = [...document.querySelectorAll("figure svg")].filter(shown).map(
    (svg) => [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]));
  const overlaps = [];
  for (const labels of texts)
    for (let i = 0; i < labels.length; i++)
      for (let j = 0; j < i; j++) {
        const [a, b] = [labels[i][1], labels[j][1]];
        const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        if (x > 1 && y > 0.35 * Math.min(a.height, b.height))
          overlaps.push(labels[i][0] + " / " + labels[j][0]);
      }
  const cut = texts.flat().filter(([, r]) => r.right > wide + 1 || r.left < -1).map(([t]) => t);
  const mark = [...document.querySelectorAll("figure svg .tip")].find(shown);
  mark.scrollIntoView({block: "center", behavior: "instant"});
  const r = mark.getBoundingClientRect();
  mark.closest("svg").dispatchEvent(new PointerEvent("pointermove",
    {clientX: r.left + r.width / 2 + 3, clientY: r.top + r.height / 2, bubbles: true}));
  const box = document.getElementById("hover");
  const options = [...document.querySelectorAll(".choice li")];
  const buttons = [...document.querySelectorAll(".choice button")];
  const chosen = () => options.filter(shown).map((o) => o.dataset.name);
  const atFirst = chosen();
  if (buttons.length) buttons[1].click();
  const kept = [...document.querySelectorAll("[data-pick]:not(.off)")].map((e) => e.dataset.pick);
  parent.postMessage(JSON.stringify({
    outside, overlaps, cut, scroll: document.documentElement.scrollWidth - wide,
    hover: box.classList.contains("on") ? box.textContent : "", hacked: "hacked" in window,
    smallest: Math.min(...texts.flat().map(([, r]) => r.height)),
    ink: getComputedStyle(document.body).color, atFirst, chosen: chosen(), kept: [...new Set(kept)],
    pressed: buttons.map((b) => b.getAttribute("aria-pressed")), names: options.map((o) => o.dataset.name),
  }), "*");
});
</script>
"""


def with_probe(out):
    html = (out / "report.html").read_text("utf-8")
    path = out / "probed.html"
    path.write_text(html.replace("</body>", PROBE + "</body>"), "utf-8")
    return path


DRAWS = 40  # enough for intervals to be drawn: how wide they are is not looked at


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return two fits of planted sweeps that differ in their noise."""
    out = tmp_path_factory.mktemp("fits")
    found = []
    for seed in range(2):
        fit(points_from_records(planted_records(seed=seed)), draws=DRAWS).write(out / "fits.json")
        found.append(read_fits(out / "fits.json"))
    return found


@pytest.fixture(scope="module")
def probed(tmp_path_factory, planted):
    out = tmp_path_factory.mktemp("page")
    records = planted_records()
    boards = ["NVIDIA A100-SXM4-80GB" if i % 2 else HOSTILE for i in range(len(records))]
    write_report(out, planted[0], records=records.assign(board=boards),
                 points=points_of(records), curves=planted_curves(records), price=2.0,
                 plan=records[["cell_id"]], title=f"planted {HOSTILE}",
                 command="isoflop report sweep=planted")  # fmt: skip
    return with_probe(out)


@pytest.fixture(scope="module")
def probed_comparison(tmp_path_factory, planted):
    out = tmp_path_factory.mktemp("comparison")
    named = [NamedFit(f"{HOSTILE} {i}", "a/fits.json", fits) for i, fits in enumerate(planted)]
    named.append(NamedFit("gone", "b/fits.json", None, HOSTILE))
    m = Multiplier("chinchilla", 1e12, 1.8, (1.2, math.inf), 0.97, (1.5, 1.6), "ok", None)
    worth = [Worth(named[0].name, named[1].name, (m,)), Worth("a", "gone", problem=HOSTILE)]
    write_comparison(out, named, title=HOSTILE, command="isoflop report", worth=worth)
    return with_probe(out)


def browse(path, folder, width: int, *more: str) -> tuple[dict, str]:
    """Open a page on a screen of a width; returns what the probe saw, and the browser's log."""
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(uri=path.as_uri(), width=width), "utf-8")
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000",
         "--virtual-time-budget=5000", "--enable-logging=stderr", "--v=0", *more, "--dump-dom",
         frame.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&")), done.stderr


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_fits_the_screen_and_stays_silent(probed, tmp_path, width):
    seen, log = browse(probed, tmp_path, width)
    assert_sound(seen, log)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_comparison_fits_the_screen_too(probed_comparison, tmp_path, width):
    seen, log = browse(probed_comparison, tmp_path, width)
    assert_sound(seen, log)


def assert_sound(seen: dict, log: str) -> None:
    assert "CONSOLE" not in log
    assert seen["scroll"] <= 0
    assert seen["outside"] == []
    assert seen["cut"] == []
    assert seen["overlaps"] == []
    assert seen["smallest"] >= 9
    assert not seen["hacked"]
    assert re.search(r"loss \d", seen["hover"])


def test_a_choice_shows_one_way_of_counting_and_fades_the_rest(probed, tmp_path):
    seen, _ = browse(probed, tmp_path, 1280)
    assert len(seen["names"]) > 3
    assert seen["atFirst"] == seen["names"][:1]
    assert seen["chosen"] == seen["names"][1:2]
    assert seen["kept"] == ["1"]
    assert seen["pressed"] == ["false", "true", *["false"] * (len(seen["names"]) - 2)]


def test_is_dark_where_the_reader_wants_it(probed, tmp_path):
    light, _ = browse(probed, tmp_path, 1280, "--blink-settings=preferredColorScheme=1")
    assert light["ink"] == "rgb(36, 41, 47)"
    dark, _ = browse(probed, tmp_path, 1280, "--blink-settings=preferredColorScheme=0")
    assert dark["ink"] == "rgb(228, 232, 236)"
