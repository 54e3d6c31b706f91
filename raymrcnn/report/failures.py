"""The part of the page about images that could not be labelled."""

from __future__ import annotations

from raymrcnn.report.collect import Failures, Predictions
from raymrcnn.report.markup import el, markup
from raymrcnn.report.parts import Section, count, grouped, table


def failures_section(predictions: Predictions | None) -> Section:
    """How often each reason, and the first images."""
    key, title = "failures", "Failures"
    if predictions is None:
        return Section(key=key, title=title, why_absent="no predictions folder was given")
    if predictions.failures is None:
        return Section(key=key, title=title, why_absent="no image failed")
    failures: Failures = predictions.failures
    reasons = [
        markup(el("td", grouped(times), class_="num"), el("td", reason))
        for reason, times in failures.reasons[:20]
    ]
    first = [
        markup(
            el("td", str(image_id), class_="num"), el("td", el("bdi", name)), el("td", error[:300])
        )
        for image_id, name, error in failures.first
    ]
    head = [el("th", "Images", scope="col", class_="num"), el("th", "Reason", scope="col")]
    columns = [el("th", "Id", scope="col", class_="num")]
    columns += [el("th", name, scope="col") for name in ("File", "Error")]
    more = f"the first {len(first)}" if failures.total > len(first) else "all"
    body = markup(
        el("p", f"{count(failures.total, 'image')} could not be labelled.", class_="lead"),
        el("div", table(head, reasons), class_="card scroll failures", tabindex=0),
        el("h3", f"Which images ({more})"),
        el("div", table(columns, first), class_="card scroll failures", tabindex=0),
    )
    return Section(key=key, title=title, body=body)
