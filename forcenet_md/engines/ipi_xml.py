"""XML files of i-PI and the values in them: words, arrays, numbers, times with their units."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TypeVar

from forcenet_md.errors import DataError

ATOMIC_TIME = 2.4188843e-2  # fs
ASE_TIME = 10.180506  # fs, Å √(amu/eV)
SECOND_PREFIXES = {"": 1e15, "milli": 1e12, "micro": 1e9, "nano": 1e6, "pico": 1e3, "femto": 1.0}
T = TypeVar("T", int, float, str)


def parse_xml(path: Path) -> ET.Element:
    """The root of an XML file. Raises DataError."""
    try:
        return ET.parse(path).getroot()
    except ET.ParseError as error:
        raise DataError(f"{path} is not well-formed XML ({error}): mend it there.") from None
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): give the path of an input of i-PI."
        ) from None
    except (ValueError, LookupError):
        raise DataError(f"{path} is not text: give the XML input of i-PI.") from None


def place_of(fault: str, path: Path) -> str:
    """ ", line 7" for a fault of i-PI's that names a tag or an attribute of an input; else ""."""
    name = r"'?([\w-]+)'?"
    if found := re.match(rf"Tag name {name} is not a recognized", fault):
        pattern = rf"<{found[1]}\b"
    elif found := re.match(rf"Attribute name {name} is not a recognized property of {name}", fault):
        pattern = rf"<{found[2]}\b[^>]*?\s{found[1]}\s*="
    elif found := re.search(rf"is mandatory .* for the property {name}$", fault):
        pattern = rf"<{found[1]}\b"
    else:
        return ""
    text = path.read_text("utf-8", errors="replace")
    lines = sorted({text.count("\n", 0, m.end()) + 1 for m in re.finditer(pattern, text)})
    words = ", ".join(map(str, lines[:3])) + ("…" if len(lines) > 3 else "")
    return f", line {words}" if len(lines) == 1 else f", lines {words}" if lines else ""


def text_of(element: ET.Element | None) -> str:
    return "" if element is None or element.text is None else element.text.strip()


def entries(element: ET.Element | None) -> list[str]:
    """The words of i-PI's array notation, [a, b, …]."""
    inside = re.search(r"\[(.*?)\]", text_of(element), re.DOTALL)
    words = inside[1].split(",") if inside else []
    return [word.strip(" \n\t'") for word in words if word.strip(" \n\t'")]


def numbers_of(element: ET.Element, path: Path) -> list[float]:
    """Raises DataError where one of an array's words is no number."""
    return [_convert(word, float, element.tag, path) for word in entries(element)]


def is_true(element: ET.Element | None) -> bool:
    return text_of(element).lower() == "true"


def femtoseconds(element: ET.Element | None, path: Path) -> float | None:
    """A time in fs; None where it is not given or i-PI will not know its unit."""
    if element is None or not text_of(element):
        return None
    number = _convert(text_of(element), float, element.tag, path)
    unit = element.get("units", "").strip().lower()
    if unit in ("", "automatic", "atomic_unit"):
        return number * ATOMIC_TIME
    if unit == "ase":
        return number * ASE_TIME
    prefix = unit.removesuffix("second")
    return (
        number * SECOND_PREFIXES[prefix] if prefix in SECOND_PREFIXES and prefix != unit else None
    )


def value(element: ET.Element, tag: str, kind: type[T], default: T, path: Path) -> T:
    text = text_of(element.find(tag))
    return _convert(text, kind, tag, path) if text else default


def attribute(element: ET.Element | None, name: str, kind: type[T], default: T, path: Path) -> T:
    text = "" if element is None else element.get(name, "").strip()
    return _convert(text, kind, name, path) if text else default


def _convert(text: str, kind: type[T], name: str, path: Path) -> T:
    try:
        return kind(text)
    except ValueError:
        raise DataError(f"{path}: {name} is {text!r}, where i-PI wants a number.") from None
