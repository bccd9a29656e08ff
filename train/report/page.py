"""HTML by construction: every text is escaped and every tag closed; pictures are inside the page.

`tag` alone makes an `Html`, so what comes from a file cannot become markup.  No text has an absolute path
whole: a page is mailed, and where its author keeps a run is the author's business.
"""

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from turbomim.pipeline.decoding.decode import rgb_pixels
from turbomim.train.report.style import STYLE

# no text of a file may hold them in HTML: control characters, halves of surrogate pairs, non-characters
UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
VOID = {"br", "img", "meta"}
# an absolute path in a text: in quotes to their end, else as far as no space or mark of a sentence comes
PATH = re.compile(r"""(?<=')/[^'\n]*/[^'\n]+(?=')|(?<![\w.~/:…-])/[^\s/'"<>;,:()]+(?:/[^\s/'"<>;,:()]+)+/?""")
# attributes that are text for people
TEXTS = ("alt", "aria_label")
# pixels; bytes of a picture, which is made narrower until it has no more
WIDEST, NARROWER = 1200, (1000, 800, 600, 400, 200)
PICTURE_BYTES = 200_000
# of a picture that is opened at all
PIXELS = 50_000_000


class Html(str):
    """Text that is HTML already: made by `tag` alone, or a constant of ours."""


def printable(text: str) -> str:
    """A text with U+FFFD for each character that neither HTML nor a terminal should get."""
    return UNFIT.sub("\ufffd", text)


def escape(text: str) -> str:
    """A text as HTML shows it; Html as it is."""
    return text if isinstance(text, Html) else html.escape(printable(text))


def short_path(text: str) -> str:
    """The last two parts of an absolute path; any other text as it is."""
    return f"…/{'/'.join(PurePosixPath(text).parts[1:][-2:])}" if text.startswith("/") else text


def short_paths(text: str) -> str:
    """A text whose absolute paths, wherever they are in it, are cut to their last two parts."""
    return text if isinstance(text, Html) else PATH.sub(lambda found: short_path(found[0]), text)


def tag(name: str, /, *children: str, **attributes: object) -> Html:
    """An element.  Children are escaped, their paths cut, unless they are Html; aria_label is aria-label."""
    shown = {key: short_paths(str(text)) if key in TEXTS else str(text) for key, text in attributes.items()}
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{escape(text)}"' for key, text in shown.items())
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{''.join(escape(short_paths(child)) for child in children)}</{name}>")


def html_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", numbers: bool = False
) -> Html:
    """A table that scrolls by itself where it is too wide; the first cell of each row is its header.

    numbers: the other cells are aligned right.
    """
    kind = {"class_": "number"} if numbers else {}
    top = tag("tr", tag("th", head[0], scope="col"), *(tag("th", c, scope="col", **kind) for c in head[1:]))
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell, **kind) for cell in row[1:]))
        for row in rows
    ]
    parts = [tag("caption", caption)] if caption else []
    # a region that scrolls must be reachable by keyboard
    return tag(
        "div",
        tag("table", *parts, tag("thead", top), tag("tbody", *body)),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=caption or f"Table: {head[0] or 'facts'}",
    )


def html_picture(path: Path, alt: str) -> Html:
    """A picture of a file, scaled down and encoded again into the page.

    Raises Exception of whatever kind Pillow's parsers raise for a damaged file.
    """
    with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as opened:
        if opened.width * opened.height > PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels are too many for a report")
        seen = opened.has_transparency_data
        whole = opened.convert("RGBA") if seen else Image.fromarray(rgb_pixels(opened))
    if whole.mode == "RGBA":
        whole = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    widest = min(whole.width, WIDEST)
    for width in (widest, *(width for width in NARROWER if width < widest)):
        image, packed = whole.copy(), io.BytesIO()
        image.thumbnail((width, 2 * width), Image.Resampling.LANCZOS)
        image.save(packed, "WEBP", quality=82)
        if packed.tell() <= PICTURE_BYTES:
            break
    data = base64.b64encode(packed.getvalue()).decode()
    return tag("img", src=f"data:image/webp;base64,{data}", alt=alt, width=image.width, height=image.height)


def html_section(title: str, *children: str) -> Html:
    """A section with a heading, and an id that links lead to."""
    name = title.lower().replace(" ", "-")
    heading = tag("h2", title, id=f"{name}-title")
    return tag("section", heading, *children, id=name, aria_labelledby=f"{name}-title")


def html_page(title: str, about: str, sections: dict[str, Html]) -> str:
    """The whole document: a title, a line about it, links to the sections by title, and these."""
    # nothing is fetched and nothing runs, whatever the files held
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        Html(f"<style>{STYLE}</style>"),
    )
    links = [tag("a", name, href=f"#{name.lower().replace(' ', '-')}") for name in sections]
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", about, class_="soft")),
        tag("nav", *links, aria_label="Sections"),
        tag("main", *sections.values()),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
