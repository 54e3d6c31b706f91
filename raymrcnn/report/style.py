"""The colours of the page in light and dark, and its style sheet and script as text.

Chart colours are told apart by people with any of the common colour-vision deficiencies (the hues
of Okabe and Ito, 2008, tuned to each background); nothing is told by colour alone.
"""

from __future__ import annotations

from importlib import resources

# What is written with a colour has a contrast of at least 4.5 to `bg` and `surface`, what is
# drawn with it at least 3 (WCAG 2.2, 1.4.3 and 1.4.11).
LIGHT = {
    "bg": "#f4f6f9",
    "surface": "#ffffff",
    "sunken": "#eef1f5",
    "text": "#17202c",
    "muted": "#566274",
    "line": "#dde3ea",
    "accent": "#0a5fa8",
    "good": "#0b7a55",
    "warn": "#9a5700",
    "bad": "#b3321f",
    "s1": "#0072b2",
    "s2": "#c65102",
    "s3": "#00805e",
    "s4": "#9c4f86",
    "c0": "#0072b2",
    "c1": "#c65102",
    "c2": "#00805e",
    "c3": "#9c4f86",
    "c4": "#7a6000",
    "c5": "#17202c",
    "c6": "#b3321f",
    "c7": "#4f5bd5",
    "hover": "#17202c14",
    "shadow": "#17202c14",
}
DARK = {
    "bg": "#0d1117",
    "surface": "#161c25",
    "sunken": "#1e2631",
    "text": "#e8edf3",
    "muted": "#9dabbc",
    "line": "#2b3543",
    "accent": "#6cb6ff",
    "good": "#4fd0a2",
    "warn": "#f0b45a",
    "bad": "#ff8d78",
    "s1": "#56b4e9",
    "s2": "#ff9547",
    "s3": "#3ccf9f",
    "s4": "#d99acb",
    "c0": "#56b4e9",
    "c1": "#ff9547",
    "c2": "#3ccf9f",
    "c3": "#d99acb",
    "c4": "#e0c341",
    "c5": "#e8edf3",
    "c6": "#ff8d78",
    "c7": "#a3aaff",
    "hover": "#ffffff1a",
    "shadow": "#00000066",
}


def style_sheet() -> str:
    """The whole style sheet."""
    dark = _tokens(DARK)
    return (
        (
            f":root{{color-scheme:light;{_tokens(LIGHT)}}}\n"
            f"@media screen and (prefers-color-scheme:dark)"
            f"{{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n"
            f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{dark}}}}}\n"
        )
        + packaged("page.css")
        + packaged("gallery.css")
    )


def script() -> str:
    """The script: theme, sorting and filtering of tables; least score and zoom of images."""
    return packaged("page.js") + packaged("shots.js")


def _tokens(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


def packaged(name: str) -> str:
    """A file that lies beside this module."""
    return resources.files("raymrcnn.report").joinpath(name).read_text(encoding="utf-8")
