"""The helpers that lesson pages import."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from autograder.exams import find_exam

matplotlib.use("agg")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "chapters"))

from lesson import KEY, QUERY, VALUE, format_number, heatmap, plt, reveal, right, wrong


@pytest.mark.parametrize(
    ("value", "shown"),
    [(3, "3"), (0.5, "0.5"), (1234.5678, "1235"), (2e-7, "2e-07"), (65504.0, "65504"), (float("inf"), "inf")],
)
def test_numbers_are_shown_with_four_digits_at_most(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_reveal_shows_the_number_and_escapes_the_text() -> None:
    html = reveal("overflow", 11.0, "is < 12")._repr_html_()
    assert 'data-predict="overflow"' in html
    assert 'data-measured="11"' in html
    assert "is &lt; 12" in html


def test_heatmap_writes_every_number_and_labels_roles_by_shape() -> None:
    ax = heatmap([[0.25, -np.inf], [1.0, np.nan]], ["a", "b"], ["c", "d"], title="weights")
    assert [text.get_text() for text in ax.texts] == ["0.25", "−∞", "1", "NaN"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"{QUERY.glyph} a", f"{QUERY.glyph} b"]
    assert [label.get_text() for label in ax.get_xticklabels()] == [f"{KEY.glyph} c", f"{KEY.glyph} d"]
    plt.close()


def test_heatmap_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 row and 1 column labels"):
        heatmap(np.zeros((2, 2)), ["a", "b"], ["c"])


def test_roles_differ_in_shape_as_well_as_in_colour() -> None:
    roles = (QUERY, KEY, VALUE)
    assert len({role.marker for role in roles}) == len({role.glyph for role in roles}) == 3


def test_answers_of_the_catalogue_are_found_by_name() -> None:
    x = torch.randn(3, 5)
    exam = find_exam("softmax")
    assert torch.allclose(right("softmax", exam.variants[0].name)(x), torch.softmax(x, -1))
    assert wrong("softmax", exam.misconceptions[-1].name) is exam.misconceptions[-1].implementation
