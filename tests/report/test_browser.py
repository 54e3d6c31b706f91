"""The pages in a real browser: nothing is logged or loaded, and what can be chosen is shown."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from report_folders import CATEGORIES, write_data, write_predictions, write_run

from raymrcnn import rundir
from raymrcnn.report.drawn import draw
from raymrcnn.report.page import write_report

pytest.importorskip("selenium", reason="selenium (of the dev extra) is not installed")
from browser import PROGRAMS, Browser, browser  # noqa: E402

MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(
    bool(MISSING),
    reason=f"{', '.join(MISSING)} not here: apt-get install chromium chromium-driver",
)
PAGES = ("report", "comparison", "gallery")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The three kinds of page about two runs and two predictions."""
    home = tmp_path_factory.mktemp("pages")
    write_data(home / "data")
    for name, worse in (("a", 0), ("b", 9)):
        write_run(home / name, home / "data")
        write_predictions(home / f"found-{name}", home / "data", worse)
    scored = {str(k): {"segm": {"AP": k / 1000}, "bbox": {"AP": k / 900}} for k in (100, 200)}
    (home / "a" / rundir.VALIDATION_JSON).write_text(json.dumps({"steps": scored}))
    manifest = json.loads((home / "found-a" / rundir.MANIFEST).read_text())
    whole = {**manifest, "num_images": 16, "block_rows": 9, "categories": [*CATEGORIES.items()]}
    (home / "found-a" / rundir.MANIFEST).write_text(json.dumps(whole))
    folders = [home / name for name in ("a", "b", "found-a", "found-b")]
    return {
        "report": write_report([folders[0], folders[2]], home / "report.html"),
        "comparison": write_report(folders, home / "comparison.html", resamples=20),
        "gallery": draw(home / "found-a", 6).gallery,
    }


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as one:
        one.run("location.replace('about:blank')")  # away from the browser's own first page
        yield one


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_logged_and_nothing_is_loaded(
    name: str, pages: dict[str, Path], window: Browser
) -> None:
    window.open(pages[name])
    window.said(), window.asked_for()
    window.open(pages[name])
    for element in window.all("button, input[type=checkbox]"):
        window.run("arguments[0].click()", element)
    window.run("window.dispatchEvent(new Event('beforeprint'))")
    assert window.said() == []
    asked = {url for url in window.asked_for() if not url.startswith(("data:", "about:"))}
    assert asked == {pages[name].as_uri()}


def test_the_console_and_requests_would_be_seen(window: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<img src='file:///nowhere.png'><script>nothing()</script>")
    window.open(bad)
    assert "nothing is not defined" in " ".join(window.said())
    assert "file:///nowhere.png" in window.asked_for()


@pytest.mark.parametrize("name", PAGES)
def test_the_slider_decides_what_is_shown(
    name: str, pages: dict[str, Path], window: Browser
) -> None:
    window.open(pages[name])
    seen = (
        "return [...document.querySelectorAll('g[data-score]')]"
        ".filter(g => getComputedStyle(g).display != 'none').length"
    )
    total = len(window.all("g[data-score]"))
    at_half = window.run(seen)
    assert 0 < at_half < total
    assert window.one("#counted").text == f"{at_half} of {total} detections shown"
    window.run("arguments[0].focus()", window.one("#least"))
    window.press(window.keys.HOME)
    assert window.run(seen) == total
    window.press(window.keys.END)
    assert window.run(seen) == 0
    assert window.one("output").text == "1.00"
    assert window.one("#counted").text == f"0 of {total} detections shown"


def test_objects_found_below_the_least_score_are_missed(
    pages: dict[str, Path], window: Browser
) -> None:
    window.open(pages["report"])
    best = window.all(".shot")[-1]
    said = (
        "return arguments[0].querySelector('.facts').textContent"
        " + arguments[0].querySelector('svg').getAttribute('aria-label')"
    )
    assert len(window.all("g.missed[data-by]")) == 0
    assert re.search(r"PQ 0\.[1-9].*[12] found0 missed", window.run(said, best))
    window.run("arguments[0].focus()", window.one("#least"))
    window.press(window.keys.END)
    assert len(window.all("g.missed[data-by]")) == len(window.all("g[data-by]")) > 0
    assert re.search(r"PQ 0\.000 found[12] missed0 extra", window.run(said, best))
    assert "missed" in window.run(said, best) and "found with" not in window.run(said, best)
    window.press(window.keys.HOME)
    assert "found with score 0.90" in window.run(said, best)


def test_masks_boxes_and_labels_are_switched_by_key(
    pages: dict[str, Path], window: Browser
) -> None:
    for name, parts in (
        ("report", {"masks": ".shape path", "boxes": ".shape .box", "labels": ".tag"}),
        ("gallery", {"masks": ".mask", "boxes": ".box", "labels": ".label"}),
    ):
        window.open(pages[name])
        for what, part in parts.items():
            switch = window.one(f"input[data-shows={what}]")
            before = window.style(part, "display") != "none"
            assert before == switch.is_selected() == (what != "boxes" or name == "gallery")
            window.run("arguments[0].focus()", switch)
            window.press(window.keys.SPACE)
            assert (window.style(part, "display") != "none") != before


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_everything(
    name: str, pages: dict[str, Path], window: Browser
) -> None:
    window.open(pages[name])
    window.run(
        "window.wanted = [...document.querySelectorAll('a[href], button, input, summary, .frame')]"
        ".filter(e => e.checkVisibility())"
    )
    num = window.run("return wanted.length")
    reached, unmarked = set(), []
    for _ in range(num + 60):
        window.press_tab()
        place, outline, what = window.run(
            "let e = document.activeElement; "
            "return [wanted.indexOf(e), getComputedStyle(e).outlineStyle, e.outerHTML.slice(0, 99)]"
        )
        if place in reached or what.startswith("<body"):
            break
        reached |= {place} - {-1}  # others are boxes that scroll
        unmarked += [what] if outline == "none" else []
    missed = "return arguments[0].map(k => wanted[k].outerHTML.slice(0, 99))"
    assert window.run(missed, sorted(set(range(num)) - reached)) == []
    assert unmarked == [], "where the focus is can be seen"
    assert num > 20


def test_the_first_link_leads_past_the_sections(pages: dict[str, Path], window: Browser) -> None:
    window.open(pages["report"])
    window.press_tab()
    assert window.run("return document.activeElement.textContent") == "Skip to the content"
    window.press(window.keys.ENTER)
    assert window.run("return location.hash") == "#main"


@pytest.mark.parametrize("name", PAGES)
def test_what_can_be_used_or_seen_has_a_name(
    name: str, pages: dict[str, Path], window: Browser
) -> None:
    window.open(pages[name])
    window.command("Accessibility.enable")
    nodes = window.command("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "checkbox", "slider", "link", "searchbox", "image", "img", "heading"}
    named = [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node["ignored"] and node.get("role", {}).get("value") in roles
    ]
    assert {"button", "checkbox", "slider", "image", "heading"} <= {role for role, _ in named}
    assert [role for role, text in named if not text] == []


def test_both_pictures_come_closer_together(pages: dict[str, Path], window: Browser) -> None:
    window.open(pages["report"])
    at = (
        "return [...document.querySelector('.shot').querySelectorAll('.stage')].map(s => "
        "{let m = new DOMMatrix(getComputedStyle(s).transform); "
        "return [m.a, Math.round(m.e / s.offsetWidth * 100), "
        "Math.round(m.f / s.offsetHeight * 100)]})"
    )
    assert window.run(at) == [[1, 0, 0]] * 2
    window.run("arguments[0].click()", window.one(".shot [data-zoom=in]"))
    assert window.run(at) == [[2, -50, -50]] * 2
    window.run("arguments[0].focus({preventScroll: true})", window.one(".shot .frame"))
    window.press("+")
    assert window.run(at) == [[4, -150, -150]] * 2
    window.press(window.keys.ARROW_LEFT, window.keys.ARROW_UP)
    assert window.run(at) == [[4, -130, -130]] * 2
    window.press(*[window.keys.ARROW_RIGHT] * 12)
    assert window.run(at) == [[4, -300, -130]] * 2, "not further than the picture"
    window.press("-")
    assert window.run(at)[0][0] == 2
    window.press("0")
    assert window.run(at) == [[1, 0, 0]] * 2
    wide = window.one(".shot .zoom")
    narrow = window.one(".shot").size["width"]
    window.run("arguments[0].click()", wide)
    assert wide.get_attribute("aria-pressed") == "true"
    assert window.one(".shot").size["width"] > 1.8 * narrow


@pytest.mark.parametrize("name", PAGES)
def test_the_page_follows_the_system_and_the_button(
    name: str, pages: dict[str, Path], window: Browser
) -> None:
    grounds = []
    for dark in (False, True):
        window.open(pages[name], dark=dark)
        window.run("localStorage.clear()")
        window.open(pages[name], dark=dark)
        grounds.append(window.style("body", "backgroundColor"))
        window.run("arguments[0].click()", window.one("#theme"))
        grounds.append(window.style("body", "backgroundColor"))
    window.run("localStorage.clear()")
    light, switched, dark_, back = grounds
    assert (light, switched) == (back, dark_)
    assert light != dark_


@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_screen_needs_no_sideways_scrolling(
    name: str, pages: dict[str, Path], window: Browser
) -> None:
    window.open(pages[name], width=400)
    assert window.run("return document.documentElement.scrollWidth") <= 400


@pytest.mark.parametrize("name", PAGES)
def test_paper_gets_all_and_no_controls(name: str, pages: dict[str, Path], window: Browser) -> None:
    window.open(pages[name], dark=True)
    printed = window.pdf()
    assert printed.startswith(b"%PDF-")
    assert 1 <= len(re.findall(rb"/Type /Page\b", printed)) <= 12
    window.media("print", dark=True)
    for gone in ("nav", ".zooms", ".controls"):
        assert window.style(gone, "display") == "none"
    assert window.style("body", "backgroundColor") == "rgb(255, 255, 255)"
    wide = (
        "return [...document.querySelectorAll('.scroll')]"
        ".every(s => getComputedStyle(s).overflow == 'visible')"
    )
    assert window.run(wide)
    window.run("window.dispatchEvent(new Event('beforeprint'))")
    assert len(window.all("details:not([open])")) == 0
    window.run("window.dispatchEvent(new Event('afterprint'))")
    assert len(window.all("details[open]")) == 0


def test_tables_are_sorted_and_filtered(pages: dict[str, Path], window: Browser) -> None:
    window.open(pages["report"])
    ap = window.all("#category-table th button")[2]
    names = (
        "return [...document.querySelectorAll('#category-table tbody tr:not([hidden]) th')]"
        ".map(h => h.textContent)"
    )
    window.run("arguments[0].focus()", ap)
    window.press(window.keys.ENTER)
    head = window.all("#category-table thead th")[2]
    assert head.get_attribute("aria-sort") == "descending"
    assert window.run(names) == [CATEGORIES[3], CATEGORIES[1], CATEGORIES[7]]
    window.one("input[type=search]").send_keys("ca")
    assert window.run(names) == ["cat"]
    assert window.one("#category-count").text == "1 of 3"


def test_a_command_is_selected_to_be_copied(pages: dict[str, Path], window: Browser) -> None:
    window.open(pages["report"])
    window.run("arguments[0].click()", window.one("button.copy"))
    text = window.run("return getSelection().toString()")
    assert text.startswith("raymrcnn train \\") and "--recipe tiny" in text
