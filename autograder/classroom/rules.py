"""What an instructor decides, from ``course.toml``: due dates, points, what a late notebook loses."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from autograder.course import CourseError, course_root, topics

FILE = "course.toml"


@dataclass(frozen=True)
class Late:
    """The share of its points that a notebook loses for each day that it is late, begun days included."""

    per_day: float = 0.0
    at_most: float = 1.0
    grace_minutes: float = 0.0


@dataclass(frozen=True)
class Rules:
    """``due`` holds a topic's last moment in UTC, ``points`` the points of its exercises where they were changed."""

    late: Late = Late()
    due: Mapping[str, datetime] = field(default_factory=dict)
    points: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def read_rules(course: Path) -> Rules:
    """The rules for the class that is graded into ``course``: from the file there, or else from the project's own.

    Raises:
        CourseError: the file says what it can't mean.
    """
    path = next((place for folder in (course, course_root()) if (place := folder / FILE).is_file()), None)
    if path is None:
        return Rules()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} is not TOML: {error}.") from None
    try:
        return _rules(data)
    except CourseError as error:
        raise CourseError(f"{path}: {error}") from None


def _rules(data: Mapping[str, Any]) -> Rules:
    _only(data, ("timezone", "late", "topics"), "the file")
    try:
        zone = ZoneInfo(str(data.get("timezone", "UTC")))
    except (ZoneInfoNotFoundError, ValueError):
        raise CourseError(f"there is no time zone {data['timezone']!r}.") from None
    late, chosen = _table(data, "late"), _table(data, "topics")
    _only(late, ("per_day", "at_most", "grace_minutes"), "[late]")
    _only(chosen, topics(), "[topics]")
    due, points = {}, {}
    for topic in chosen:
        about = _table(chosen, topic)
        _only(about, ("due", "points"), f"[topics.{topic}]")
        if "due" in about:
            due[topic] = _moment(about["due"], zone, topic)
        worth = _table(about, "points")
        points[topic] = {name: _number(worth, name, 1000.0) for name in worth}
    most = {"per_day": 1.0, "at_most": 1.0, "grace_minutes": 1e6}
    return Rules(Late(**{name: _number(late, name, most[name]) for name in late}), due, points)


def _only(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in table:
        if name not in known:
            raise CourseError(f"{where} has no {name!r}; there may be {', '.join(known)}.")


def _table(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = data.get(name, {})
    if not isinstance(found, dict):
        raise CourseError(f"{name} is to be a table.")
    return found


def _number(table: Mapping[str, Any], name: str, most: float) -> float:
    value = table[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise CourseError(f"{name} is to be a number from 0 to {most:g}, not {value!r}.")
    return float(value)


def _moment(value: Any, zone: ZoneInfo, topic: str) -> datetime:
    """A date stands for its end; a time without offset is in ``zone``."""
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time(23, 59, 59))
    if not isinstance(value, datetime):
        raise CourseError(f"{topic} is to be due at a date or a time, as 2027-03-05 or 2027-03-05T18:00:00.")
    return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(UTC)
