"""`write_statistics`: one HTML file about what a data set holds, split beside split.

The file needs nothing beside itself, as that of a run. This module computes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np

from raymrcnn import rundir
from raymrcnn.data.statistics import (
    FEW_IMAGES,
    MEDIUM_PX,
    OVERLAP_IOU,
    SMALL_PX,
    CategoryStatistics,
    Histogram,
    SplitStatistics,
    Spread,
    Statistics,
)
from raymrcnn.report.charts import histogram, number
from raymrcnn.report.document import document, footer, navigation
from raymrcnn.report.markup import Markup, el, join, markup
from raymrcnn.report.parts import Section, count, grouped, table
from raymrcnn.report.sortable import filtered_table, sort_head

THREE_NUMBERS = "the least, the median and the most"
_STYLES = ("s1", "s2", "s3", "s4")


def write_statistics(found: Statistics, out: Path) -> Path:
    """Write the page.

    Args:
        found: the numbers.
        out: the HTML file, or a folder for `statistics.html`.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written.
    """
    target = out / "statistics.html" if out.is_dir() else out
    rundir.prepare_output(target.parent)
    sections = [
        Section(key="splits", title="Splits", body=_overview(found.splits)),
        Section(key="images", title="Images", body=_images(found.splits)),
        Section(key="objects", title="Objects", body=_objects(found.splits)),
        Section(key="categories", title="Categories", body=_categories(found.splits)),
    ]
    name = PurePath(found.data).name or found.data
    tiles = [el("div", *parts, class_="tile") for parts in _tiles(found.splits)]
    header = el(
        "header",
        el("p", "Data set", class_="kind"),
        el("h1", name),
        el("div", *tiles, class_="tiles"),
        class_="top",
    )
    links = navigation([(section.key, section.title) for section in sections])
    main = el("main", *(section.html() for section in sections), id="main")
    title = f"{name} · data set"
    rundir.write_text(target, document(title, [links, header, main, footer()]))
    return target


def _tiles(splits: Mapping[str, SplitStatistics]) -> list[list[Markup]]:
    categories = {c.id for split in splits.values() for c in split.categories}
    texts = [
        (
            f"{name}: images",
            grouped(split.num_images),
            f"{count(split.num_objects, 'object')}, {count(split.num_crowds, 'crowd')}",
        )
        for name, split in splits.items()
    ]
    texts.append(("Categories", grouped(len(categories)), "in any split"))
    return [[el("span", a), el("strong", b), el("small", c)] for a, b, c in texts]


def _overview(splits: Mapping[str, SplitStatistics]) -> Markup:
    """A column a split."""
    rows = {name: overview_of(split) for name, split in splits.items()}
    first = next(iter(rows.values()))
    head = [el("th", "", scope="col")]
    head += [el("th", name, scope="col", class_="num") for name in rows]
    lines = [
        markup(
            el("th", label, scope="row"),
            *(el("td", values[label], class_="num") for values in rows.values()),
        )
        for label in first
    ]
    lead = el("p", f"Three numbers are {THREE_NUMBERS}.", class_="lead")
    body = el("div", el("div", table(head, lines), class_="scroll", tabindex=0), class_="card")
    return markup(lead, body)


def overview_of(split: SplitStatistics) -> dict[str, str]:
    """The numbers of a split that a table has room for, as text."""
    tail, objects = split.long_tail, max(split.num_objects, 1)
    sizes = split.by_size
    few, more = FEW_IMAGES
    return {
        "Images": grouped(split.num_images),
        "Images without annotations": grouped(split.num_unannotated_images),
        "Objects": grouped(split.num_objects),
        "Crowds": grouped(split.num_crowds),
        "Image width, px": _range(split.image_width),
        "Image height, px": _range(split.image_height),
        "Objects an image": _range(split.objects_per_image),
        "Categories an image": _range(split.categories_per_image),
        "Object side (root of the area), px": _range(split.object_side_px),
        f"Small objects, under {SMALL_PX}² px": f"{sizes['small'] / objects:.1%}",
        f"Medium objects, under {MEDIUM_PX}² px": f"{sizes['medium'] / objects:.1%}",
        "Large objects": f"{sizes['large'] / objects:.1%}",
        "Width to height of objects": _range(split.object_ratio),
        f"Objects whose box overlaps another's, IoU over {OVERLAP_IOU}": (
            f"{split.num_overlapped / objects:.1%}"
        ),
        "Categories": grouped(split.num_categories),
        "Categories without an object": grouped(tail.num_empty),
        f"Categories in under {few} images": grouped(tail.num_under_10_images),
        f"Categories in under {more} images": grouped(tail.num_under_100_images),
        "Objects of the rarest half of the categories": f"{tail.share_of_rarest_half:.1%}",
        "Objects of the commonest tenth": f"{tail.share_of_commonest_tenth:.1%}",
        "Commonest to rarest category": "–" if tail.imbalance is None else f"{tail.imbalance:.3g}",
    }


def _range(values: Spread | None) -> str:
    """Least, median and most."""
    if values is None:
        return "–"
    return f"{number(values.least)} … {number(values.median)} … {number(values.most)}"


def _images(splits: Mapping[str, SplitStatistics]) -> Markup:
    tables = []
    for name, split in splits.items():
        rows = [
            markup(
                el("td", f"{width} × {height}"),
                el("td", grouped(times), class_="num"),
                el("td", f"{times / max(split.num_images, 1):.1%}", class_="num"),
            )
            for width, height, times in split.commonest_sizes
        ]
        head = [el("th", f"{name}: size", scope="col")]
        head += [el("th", text, scope="col", class_="num") for text in ("Images", "Share")]
        tables.append(el("div", table(head, rows), class_="card"))
    charts = _charts(
        splits,
        "image",
        {
            "image sizes": ("side, px", lambda split: split.image_sides),
            "image shapes": ("width to height", lambda split: split.image_ratios),
        },
    )
    lead = el("p", "The side of an image is the root of its pixels.", class_="lead")
    return markup(
        lead,
        el("div", *charts, class_="grid pair"),
        el("h3", "Commonest sizes"),
        el("div", *tables, class_="grid pair"),
    )


def _objects(splits: Mapping[str, SplitStatistics]) -> Markup:
    counts = _charts(
        splits, "image",
        {"objects an image": ("objects", lambda split: split.objects_per_image_bars)}, whole=True,
    )  # fmt: skip
    shapes = _charts(
        splits,
        "object",
        {
            "object sizes": ("side, px", lambda split: split.object_sides),
            "object shapes": ("width to height", lambda split: split.object_ratios),
        },
    )
    # A row a split.
    rows = [[chart, *shapes[2 * k : 2 * k + 2]] for k, chart in enumerate(counts)]
    lead = el("p", "Crowds are not counted. The side of an object is the root of its area.",
              class_="lead")  # fmt: skip
    return markup(lead, el("div", *(c for row in rows for c in row), class_="grid three"))


def _charts(
    splits: Mapping[str, SplitStatistics],
    what: str,
    kinds: Mapping[str, tuple[str, Callable[[SplitStatistics], Histogram]]],
    *,
    whole: bool = False,
) -> list[Markup]:
    """Of each split a chart of each kind, all splits over the same axis.

    Args:
        splits: by name.
        what: is counted.
        kinds: by title: the name of the axis, and the bars of a split.
        whole: bars are of whole numbers.
    """
    shown = {title: _shown(map(bars, splits.values())) for title, (_, bars) in kinds.items()}
    return [
        _bars(bars(split), shown[title], f"{name}: {title}", x_label, style, what=what, whole=whole)
        for style, (name, split) in _styled(splits)
        for title, (x_label, bars) in kinds.items()
    ]


def _styled(
    splits: Mapping[str, SplitStatistics],
) -> list[tuple[str, tuple[str, SplitStatistics]]]:
    """Each split with the style of its charts."""
    return [(_STYLES[k % len(_STYLES)], item) for k, item in enumerate(splits.items())]


def _shown(all_bars: Iterable[Histogram]) -> range:
    """The bars from the first to the last that is filled in any split."""
    filled = np.flatnonzero(np.sum([bars.counts for bars in all_bars], axis=0))
    return range(int(filled[0]), int(filled[-1]) + 1) if len(filled) else range(1)


def _bars(
    bars: Histogram, shown: range, title: str, x_label: str, style: str, *, what: str, whole: bool
) -> Markup:
    """Bars of equal width, whatever their edges."""
    names = [_bar_name(bars.edges, k, whole) for k in shown]
    counts = np.asarray([bars.counts[k] for k in shown], np.int64)
    total = max(int(counts.sum()), 1)
    tips = [
        f"{name}: {count(int(n), what)}, {n / total:.1%}"
        for name, n in zip(names, counts, strict=True)
    ]
    if whole:
        labels = [(k + 0.5, name) for k, name in enumerate(names)]
    else:
        edges = [*(bars.edges[k] for k in shown), *bars.edges[shown.stop : shown.stop + 1]]
        labels = [(float(k), number(edge)) for k, edge in enumerate(edges)]
    return histogram(
        counts, np.arange(len(counts) + 1, dtype=np.float64), title=title, x_label=x_label,
        tips=tips, style=style, labels=labels, note=f"{what}s",
    )  # fmt: skip


def _bar_name(edges: Sequence[float], k: int, whole: bool) -> str:
    """What lies in a bar; the last has no end."""
    if k + 1 == len(edges):
        return f"{number(edges[k])} or more"
    if not whole:
        return f"{number(edges[k])} to {number(edges[k + 1])}"
    last = int(edges[k + 1]) - 1
    return number(edges[k]) if last == edges[k] else f"{number(edges[k])}–{last}"


def _categories(splits: Mapping[str, SplitStatistics]) -> Markup:
    charts = [_tail_chart(name, split, style) for style, (name, split) in _styled(splits)]
    return markup(
        el("p", "From the commonest category to the rarest; crowds are not counted.",
           class_="lead"),
        join(charts),
        _category_table(splits),
    )  # fmt: skip


def _tail_chart(name: str, split: SplitStatistics, style: str) -> Markup:
    counts = np.asarray([c.num_objects for c in split.categories], np.int64)
    tips = [
        f"{c.name}: {count(c.num_objects, 'object')} in {count(c.num_images, 'image')}"
        for c in split.categories
    ]
    return histogram(
        counts, np.arange(len(counts) + 1, dtype=np.float64), title=f"{name}: objects a category",
        x_label="category, commonest first", tips=tips, style=style, size=(1140, 230),
        note=f"the rarest half has {split.long_tail.share_of_rarest_half:.1%} of the objects",
    )  # fmt: skip


def _category_table(splits: Mapping[str, SplitStatistics]) -> Markup:
    """To sort and to filter."""
    by_split = {name: {c.id: c for c in split.categories} for name, split in splits.items()}
    names = {c.id: c.name for split in by_split.values() for c in split.values()}
    total = {
        k: sum(split[k].num_objects for split in by_split.values() if k in split) for k in names
    }
    head = [sort_head("Category", up=True), sort_head("Id", up=True, numeric=True)]
    for name in by_split:
        for text in (f"{name}: objects", "share", "images", "side, px"):
            head.append(sort_head(text, numeric=True))
    lines = []
    for k in sorted(names, key=lambda k: (-total[k], k)):
        cells = [el("th", el("bdi", names[k]), scope="row"), _cell(k, str(k))]
        for name, categories in by_split.items():
            cells += _category_cells(categories.get(k), splits[name].num_objects)
        lines.append(markup(*cells))
    return filtered_table(head, lines)


def _category_cells(category: CategoryStatistics | None, num_objects: int) -> list[Markup]:
    if category is None:
        return [_cell(-1, "–")] * 4
    share = category.num_objects / max(num_objects, 1)
    side = category.median_side_px
    return [
        _cell(category.num_objects, grouped(category.num_objects)),
        _cell(share, f"{share:.2%}"),
        _cell(category.num_images, grouped(category.num_images)),
        _cell(-1 if side is None else side, "–" if side is None else number(side)),
    ]


def _cell(value: float, text: str) -> Markup:
    return el("td", text, class_="num", data_v=str(value))
