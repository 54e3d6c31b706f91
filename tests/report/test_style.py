from __future__ import annotations

import re
from importlib import resources
from itertools import combinations

import pytest

from raymrcnn.report.style import DARK, LIGHT, script, style_sheet

THEMES = {"light": LIGHT, "dark": DARK}


def linear(colour: str) -> list[float]:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]


def luminance(colour: str) -> float:
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("ground", ["bg", "surface", "sunken"])
def test_words_can_be_read_on_every_ground(theme: str, ground: str) -> None:
    colours = THEMES[theme]
    for name in ("text", "muted", "accent"):
        assert contrast(colours[name], colours[ground]) >= 4.5, name
    if ground != "sunken":
        for name in ("good", "warn", "bad"):
            assert contrast(colours[name], colours[ground]) >= 4.5, name


@pytest.mark.parametrize("theme", THEMES)
def test_lines_can_be_seen(theme: str) -> None:
    colours = THEMES[theme]
    for name in ("s1", "s2", "s3", "s4", *(f"c{k}" for k in range(8))):
        assert contrast(colours[name], colours["surface"]) >= 3.0, name


# What is left of red, green and blue for a person without one kind of cone; of linear RGB.
# Source: Viénot, Brettel, Mollon 1999, by the way of their equations for dichromats.
DICHROMATS = {
    "protan": ((0.1124, 0.8876, 0.0), (0.1124, 0.8876, 0.0), (0.0040, -0.0040, 1.0)),
    "deutan": ((0.2928, 0.7072, 0.0), (0.2928, 0.7072, 0.0), (-0.0223, 0.0223, 1.0)),
}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("kind", DICHROMATS)
def test_the_two_colours_of_one_chart_differ_without_red_or_green(theme: str, kind: str) -> None:
    seen = {
        name: [
            sum(w * c for w, c in zip(row, linear(THEMES[theme][name]), strict=True))
            for row in DICHROMATS[kind]
        ]
        for name in ("s1", "s2")
    }
    for a, b in combinations(seen, 2):
        apart = sum((x - y) ** 2 for x, y in zip(seen[a], seen[b], strict=True)) ** 0.5
        assert apart > 0.25


def test_all_colours_that_are_used_are_defined() -> None:
    used = set(re.findall(r"var\(--([\w-]+)\)", style_sheet()))
    used -= {"c", "k", "x", "y", "columns"}  # set where they are used
    assert used <= set(LIGHT) and set(LIGHT) == set(DARK)


def test_style_and_script_cannot_end_their_element() -> None:
    assert "</" not in style_sheet() and "</" not in script()


def test_page_can_be_printed_and_follows_the_system() -> None:
    sheet = style_sheet()
    assert "@media print" in sheet
    assert "prefers-color-scheme:dark" in sheet
    assert sheet.count("{") == sheet.count("}")


def test_packaged_files_lie_beside_the_code() -> None:
    folder = resources.files("raymrcnn.report")
    assert all(
        folder.joinpath(name).is_file()
        for name in ("page.css", "page.js", "gallery.css", "shots.js")
    )
