"""Tables of names: patterns for whole names, each with the name that takes the place of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

Rule = tuple[str, "str | Callable[[re.Match[str]], str]"]


def renamed(
    state: Mapping[str, Tensor], rules: tuple[Rule, ...], useless: Mapping[str, str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors under the names of a table.

    Args:
        state: under names that the table's patterns match in whole.
        rules: the first that matches counts. A name that none matches is kept as it is.
        useless: patterns of names without a place, and why.

    Returns:
        The tensors, and the names that were left out with their reasons.
    """
    found: dict[str, Tensor] = {}
    dropped: dict[str, str] = {}
    for name, tensor in state.items():
        reason = next((why for p, why in useless.items() if re.fullmatch(p, name)), None)
        if reason is not None:
            dropped[name] = reason
            continue
        for pattern, replacement in rules:
            match = re.fullmatch(pattern, name)
            if match:
                if isinstance(replacement, str):
                    here = match.expand(replacement)
                else:
                    here = replacement(match)
                # Two names for one place: the second is kept as it is, and so listed as unknown.
                found[name if here in found else here] = tensor
                break
        else:
            found[name] = tensor
    return found, dropped


def num_rows(state: Mapping[str, Tensor], name: str) -> int:
    """Length of a tensor's first side; 0 of one that is not there or has no sides."""
    tensor = state.get(name)
    return 0 if tensor is None or tensor.ndim == 0 else tensor.shape[0]
