"""What every lesson page imports: one matplotlib style, one colour code, one heat map, ``reveal``, and the answers of
the autograder's catalogue to experiment with.

Importing it applies the style. Figures come out as SVG inside the page, in the page's own text colour, so that they
read well in the light and in the dark scheme.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from IPython.core.getipython import get_ipython
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from autograder.exams import find_exam

__all__ = [
    "FAINT",
    "INK",
    "KEY",
    "NEGATIVE",
    "POSITIVE",
    "QUERY",
    "SIGNED",
    "VALUE",
    "Role",
    "heatmap",
    "plt",
    "reveal",
    "right",
    "wrong",
]


@dataclass(frozen=True)
class Role:
    """How one of the three roles looks: ``color`` and ``marker`` for plots, ``ink`` and ``glyph`` for text.

    Colours are Okabe and Ito's; the shape is the cue for those who can't tell them apart.
    """

    name: str
    color: str
    marker: str
    ink: str
    glyph: str


QUERY = Role("query", color="#0072b2", marker="o", ink="#00659e", glyph="●")
KEY = Role("key", color="#e69f00", marker="s", ink="#8f5f00", glyph="■")
VALUE = Role("value", color="#009e73", marker="D", ink="#007a59", glyph="◆")

INK = "#2b2d42"  # in the page it becomes the text colour of the scheme the reader has chosen
FAINT = "#8d99ae"
POSITIVE = "#8e44ad"
NEGATIVE = "#5d6d7e"

NARROW = 6.2  # inches; a phone shows such a figure whole, and scrolls a wider one

SIGNED = LinearSegmentedColormap.from_list(
    "signed", [(0.0, "#2c3840"), (0.25, NEGATIVE), (0.5, "#faf8fc"), (0.75, "#a569bd"), (1.0, "#5b2174")]
)

STYLE = {
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=[POSITIVE, "#d55e00", "#56b4e9", NEGATIVE, "#cc79a7"]),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "figure.constrained_layout.use": True,
    "figure.figsize": (5.8, 3.3),
    "font.family": "sans-serif",
    "font.size": 11,
    "grid.alpha": 0.35,
    "grid.color": FAINT,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "savefig.transparent": True,
    "svg.fonttype": "none",  # text stays text: it can be selected, searched, and takes the page's font
    "svg.hashsalt": "attention-from-scratch",  # the same figure gives the same bytes
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def heatmap(
    matrix: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    ax: Axes | None = None,
    *,
    row_role: Role | None = QUERY,
    column_role: Role | None = KEY,
    decimals: int = 2,
) -> Axes:
    """A matrix with its numbers in the cells; row and column labels wear the colour and shape of their role.

    Zero is white, positive is purple, negative is grey, on one scale set by the largest magnitude.

    Shapes: matrix (len(rows), len(columns)).
    Raises: ValueError if the labels don't fit the matrix.
    """
    cells = np.asarray(matrix, dtype=float)
    if cells.shape != (len(rows), len(columns)):
        raise ValueError(f"{len(rows)} row and {len(columns)} column labels for a matrix of shape {cells.shape}")
    if ax is None:
        _, ax = plt.subplots(figsize=(1.3 + 0.72 * len(columns), 1.0 + 0.5 * len(rows)))
    limit = float(np.nanmax(np.abs(cells), initial=0.0, where=np.isfinite(cells))) or 1.0
    ax.imshow(np.clip(cells, -limit, limit), cmap=SIGNED, vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.ndindex(cells.shape):
        shade = SIGNED((np.clip(cells[row, column], -limit, limit) / limit + 1) / 2)
        text = _number(float(cells[row, column]), decimals)
        ax.text(column, row, text, ha="center", va="center", color=_readable_on(shade))
    ax.set_xticks(range(len(columns)), _worn(columns, column_role))
    ax.set_yticks(range(len(rows)), _worn(rows, row_role))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.tick_params(axis="x", labelcolor=column_role.ink if column_role else INK)
    ax.tick_params(axis="y", labelcolor=row_role.ink if row_role else INK)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, pad=8)
    return ax


def reveal(predict_id: str, value: float, text: str = "") -> Revealed:
    """The measured answer to the ``predict`` box ``predict_id``; the page covers it until the reader has guessed.

    ``text`` is the sentence beside the number. Return it as the last value of a cell.
    """
    return Revealed(predict_id, float(value), text)


def right(exercise: str, name: str) -> Callable[..., Any]:
    """The right answer ``name`` to ``exercise`` in the autograder's catalogue, for a page to experiment with."""
    return next(it.implementation for it in find_exam(exercise).variants if it.name == name)


def wrong(exercise: str, name: str) -> Callable[..., Any]:
    """The wrong answer ``name`` to ``exercise`` in that catalogue."""
    return next(it.implementation for it in find_exam(exercise).misconceptions if it.name == name)


@dataclass(frozen=True)
class Revealed:
    """A measured number as the page shows it."""

    predict_id: str
    value: float
    text: str

    def __repr__(self) -> str:
        return f"measured: {format_number(self.value)} {self.text}".rstrip()

    def _repr_html_(self) -> str:
        number = format_number(self.value)
        return (
            f'<div class="reveal" data-predict="{escape(self.predict_id)}" data-measured="{number}">'
            f'<p class="reveal-measured">Measured: <strong>{number}</strong> {escape(self.text)}</p>'
            '<p class="reveal-verdict" role="status"></p></div>'
        )


def format_number(value: float) -> str:
    """Four significant digits at most; whole numbers whole, very large and very small ones as 1.5e-07."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e6 else f"{value:.4g}"


def _number(value: float, decimals: int) -> str:
    if np.isinf(value):
        return "−∞" if value < 0 else "∞"
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".").replace("-", "−") if np.isfinite(value) else "NaN"


def _readable_on(ground: tuple[float, float, float, float]) -> str:
    """Black or white, whichever has the higher contrast (WCAG's relative luminance)."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(ground)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def _worn(labels: Sequence[str], role: Role | None) -> list[str]:
    return [f"{role.glyph} {label}" if role else label for label in labels]


def _themed(svg: str) -> str:
    """The SVG with colours that may change with the page's scheme (``course.css`` has the variables)."""
    themed = {INK: "currentColor", POSITIVE: "var(--course-accent)"}
    for role in (QUERY, KEY, VALUE):
        themed |= {role.color: f"var(--{role.name})", role.ink: f"var(--{role.name}-ink)"}
    for fixed, variable in themed.items():
        # Without the style sheet, in a notebook, the fixed colour stands.
        svg = svg.replace(fixed, variable if variable == "currentColor" else f"{variable[:-1]}, {fixed})")
    return svg


def _svg_in_page(figure: Figure) -> str:
    """The figure as an SVG element with a spoken name: the figure's label, or else its titles."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    titles = [figure.get_suptitle(), *(ax.get_title() for ax in figure.axes)]
    name = str(figure.get_label()) or "; ".join(filter(None, titles)) or "plot"
    svg = re.sub(r"<metadata>.*?</metadata>", "", _themed(svg), flags=re.DOTALL)
    named = svg.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)
    kind = "plot plot-wide" if figure.get_figwidth() > NARROW else "plot"
    return f'<div class="{kind}">{named}</div>'


def _show_figures_as_svg() -> None:
    """Have the notebook display figures by ``_svg_in_page`` alone."""
    shell = get_ipython()
    if shell is None or shell.display_formatter is None:
        return
    shell.run_line_magic("matplotlib", "inline")
    formatters = shell.display_formatter.formatters
    for kind in ("image/png", "image/svg+xml", "image/jpeg", "application/pdf"):
        formatters[kind].pop(Figure, None)
    formatters["text/html"].for_type(Figure, _svg_in_page)


plt.style.use(STYLE)
_show_figures_as_svg()
