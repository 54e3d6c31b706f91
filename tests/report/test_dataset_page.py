"""The page of a data set: whole, self-contained, and nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from raymrcnn.data.statistics import statistics
from raymrcnn.report.dataset import write_statistics


class Reader(HTMLParser):
    """Names of elements and ids; fails where elements do not close in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.seen.append(tag)
        self.ids.add(str(named.get("id")))
        self.links += [str(named["href"])] if "href" in named else []
        assert not {"src", "onclick"} & set(named)
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(made_up: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page")
    path = write_statistics(statistics(made_up), out)
    assert path == out / "statistics.html"
    return path.read_text()


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert {"splits", "images", "objects", "categories"} <= reader.ids
    assert all(link[0] == "#" and link[1:] in reader.ids for link in reader.links)
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"https?://", page)
    # Of each of the two splits: sizes and shapes of images and objects, counts, the long tail.
    assert reader.seen.count("figure") == 2 * 6


def test_the_page_says_what_the_numbers_are(page: str, made_up: Path) -> None:
    found = statistics(made_up).splits["train2017"]
    text = re.sub(r"<[^>]+>", " ", page)
    assert f"{found.num_objects} objects" in text
    for category in found.categories:
        assert f"{category.name}: {category.num_objects} objects in {category.num_images}" in page
    assert "the least, the median and the most" in text


def test_names_are_no_markup(made_up: Path, tmp_path: Path) -> None:
    path = tmp_path / "data/annotations/instances_t.json"
    path.parent.mkdir(parents=True)
    document = json.loads((made_up / "annotations/instances_val2017.json").read_text())
    for category in document["categories"]:
        category["name"] = f"<script>{category['id']}</script>"
    path.write_text(json.dumps(document))
    text = write_statistics(statistics(tmp_path / "data"), tmp_path / "a.html").read_text()
    assert "<script>2" not in text
    assert "&lt;script&gt;2" in text


def test_a_split_without_objects_has_a_page(made_up: Path, tmp_path: Path) -> None:
    path = tmp_path / "data/annotations/instances_t.json"
    path.parent.mkdir(parents=True)
    document = json.loads((made_up / "annotations/instances_val2017.json").read_text())
    path.write_text(json.dumps({**document, "annotations": []}))
    text = write_statistics(statistics(tmp_path / "data"), tmp_path / "a.html").read_text()
    assert "most: nothing" in text
