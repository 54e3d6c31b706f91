from __future__ import annotations

from raymrcnn.report.markup import Markup, el, escape, join, markup
from raymrcnn.report.parts import count, date, duration, grouped, score


def test_text_is_escaped_and_markup_is_not() -> None:
    assert el("b", "<i>") == "<b>&lt;i&gt;</b>"
    assert el("b", el("i", "x")) == "<b><i>x</i></b>"
    assert join(["<", Markup("<br>")]) == "&lt;<br>"
    assert markup("a", "&") == "a&amp;"


def test_attributes_are_escaped_named_and_left_out() -> None:
    made = el("a", class_='x"><script>', aria_label="'", hidden=True, id=None, draggable=False)
    assert made == '<a class="x&quot;&gt;&lt;script&gt;" aria-label="&#x27;" hidden></a>'
    assert el("rect", x=1.0, y=2.345, width=3) == '<rect x="1" y="2.35" width="3"></rect>'


def test_what_cannot_be_printed_is_replaced() -> None:
    assert escape("a\x00b\ud800c\u202ed\x7f") == "a�b�c�d�"
    assert escape("tab\tline\nümlaut 猫") == "tab\tline\nümlaut 猫"


def test_numbers_are_written_for_people() -> None:
    assert grouped(1234567) == "1\u202f234\u202f567"
    assert (count(1, "image"), count(2, "image")) == ("1 image", "2 images")
    assert (score(0.35949), score(-1.0), score(None), score("x")) == ("0.359", "–", "–", "–")


def test_times_are_written_for_people() -> None:
    assert [duration(s) for s in (2.25, 61, 7260, 200_000)] == [
        "2.2 s",
        "1 min 1 s",
        "2 h 1 min",
        "2 d 7 h",
    ]
    assert duration(float("nan")) is None
    assert date("2026-11-23T12:30:00+02:00") == "2026-11-23 10:30 UTC"
    assert date("2026-11-23T12:30:00Z") == "2026-11-23 12:30 UTC"
    assert (date("yesterday"), date(None), date(5)) == ("yesterday", None, None)
