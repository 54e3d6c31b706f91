"""What a check found: ok, a warning or a failure, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table.

    Args:
        check: what was looked at.
        status: ok; warn: works, but not as it should; fail: does not.
        what: was found.
        fix: what to do; empty where nothing is.
        node: where; empty for this machine.
    """

    check: str
    status: Status
    what: str
    fix: str = ""
    node: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a dictionary."""
        return asdict(self)


def ok(check: str, what: str) -> Finding:
    """Nothing to mend."""
    return Finding(check=check, status="ok", what=what)


def warn(check: str, what: str, fix: str) -> Finding:
    """Works, but not as it should."""
    return Finding(check=check, status="warn", what=what, fix=fix)


def fail(check: str, what: str, fix: str) -> Finding:
    """Does not work."""
    return Finding(check=check, status="fail", what=what, fix=fix)


def guarded(check: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """What a check finds; a check that falls is a finding too, and stops no other."""
    try:
        return list(look())
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        return [fail(check, f"the check itself failed: {type(error).__name__}: {text}",
                     "report it, with this line")]  # fmt: skip
