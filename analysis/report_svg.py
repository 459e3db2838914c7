"""Make a figure's SVG part of a page: colours by name, ids of its own, words on its points."""

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from analysis.plot_style import dark_of

_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_PICK = re.compile(r"\.pick-(\d+)$")
_HEX = re.compile(r"#[0-9a-f]{6}\b")


def inline_svg(svg: bytes, prefix: str, alt: str, words: Mapping[str, Sequence[str]]) -> str:
    """Turn a figure's SVG file into an <svg> element for an HTML page.

    Args:
        svg: as figures.Drawing saves it.
        prefix: makes its ids unique on the page.
        alt: what the figure shows, for those who can't see it.
        words: id of a group of marks -> what to show when one points at each of them.
    """
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    root = ElementTree.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    _describe(root, alt)
    _add_hovers(root, words)
    _add_choices(root)
    _own_ids(root, prefix)
    return _named_colours(ElementTree.tostring(root, encoding="unicode"))


def colour_variables(dark: bool) -> str:
    """CSS declarations of every figure colour, for a light or a dark page."""
    pairs = dark_of().items()
    return "".join(f"--f{light[1:]}:{night if dark else light};" for light, night in pairs)


def _describe(root: ElementTree.Element, alt: str) -> None:
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)


def _add_hovers(root: ElementTree.Element, words: Mapping[str, Sequence[str]]) -> None:
    """Put each point's words into a <title> of its own mark."""
    for group in root.iter(f"{{{_SVG}}}g"):
        tips = words.get(group.get("id", ""), ())
        marks = list(group.iter(f"{{{_SVG}}}use"))
        if len(marks) == len(tips):
            for mark, tip in zip(marks, tips, strict=True):
                mark.set("class", "tip")
                ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = tip


def _add_choices(root: ElementTree.Element) -> None:
    """Mark what a choice on the page shows or dims (plot_style.choose)."""
    for group in root.iter(f"{{{_SVG}}}g"):
        found = _PICK.search(group.get("id", ""))
        if found:
            group.set("data-pick", found[1])


def _own_ids(root: ElementTree.Element, prefix: str) -> None:
    used = set()
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == _LINK and value.startswith("#"):
                used.add(value[1:])
                element.set(name, f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                used.update(re.findall(r"url\(#([^)]*)\)", value))
                element.set(name, value.replace("url(#", f"url(#{prefix}-"))
    for element in root.iter():
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", f"{prefix}-{name}")


def _named_colours(svg: str) -> str:
    known = dark_of()
    return _HEX.sub(lambda m: f"var(--f{m[0][1:]})" if m[0] in known else m[0], svg)
