"""Captions for clip art. Titles are by hundreds of people: of a whole collection, by the file, in other languages."""

from __future__ import annotations

import html
import re

from trainer.data.captions import words
from trainer.data.openclipart_translations import translated

VERSION = 1  # raise it when captions, or what is left out, change, so that caches are made anew

# Titles of collections -> what the words of each file become. "" where those words say nothing either.
_COLLECTIONS = {
    "AIGA_Symbol_Signs": "{} sign",
    "Australian Maps": "map of {}",
    "Clipart by Nicu Buculei - arrow08_4": "arrow",
    "Clipart by Nicu Buculei - clock12": "clock",
    "Clipart by Nicu Buculei - fc23": "flowchart symbol",
    "Clipart by Nicu Buculei - head1": "head of a person",
    "Clipart by Nicu Buculei - jigsaw_red_10": "{} piece",
    "Clipart by Nicu Buculei - segmented": "speech bubble",
    "Clipart by Nicu Buculei - smiley111": "smiley",
    "Etiquette Icons": "{}",
    "Homes Clipart": "house",
    "Lemon SVG theme": "{}",
    "PC connectors": "{}",
    "R15 General": "{}",
    "R16 sibmission": "{}",
    "Road Signs": "{} road sign",
    "SVG Road Signs": "{} road sign",
    "Sallite": "{}",
    "Simple arrows": "arrow",
    "Various Cliparts": "{}",
    "balloons-aj": "{}",
    "moons": "{}",
    "Chess pieces": "{}",
    "Map Symbols": "{} map symbol",
    "blueberry - iconset": "",
    "gold-theme": "",
    "people": "person",
    "plastik-icon-theme": "",
    "advertising": "",
    "Icons": "",
    "Webicons": "",
}
_CARD = re.compile(r"(?:bordered|ornamental|simple|white)_([cdhs])_(10|[2-9ajqk])$")
_SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades"}
_RANKS = {"a": "ace", "j": "jack", "q": "queen", "k": "king"}
_REWORDINGS: list[tuple[str, str]] = [  # each on the result of the last
    (r"^\s*clip ?art by .*? - ", ""),
    (r"\S+@\S+|\.svg\b|\bemail:", " "),
    (r"(?<=[a-z])(?=[A-Z][a-z])", " "),  # RedCar
    (r"[_#]+|(?<=\w)-(?=\w)", " "),
    (r"\(?\b(?:b ?(?:&|and)? ?w|bn)\b\)?", " black and white "),
    (r"\s-\s(?:body part|clothing)\s*$", ""),
    (r"\s-\srpg map elem\w*", ", map symbol"),
    (r"^\s*(?:aiga|sm|bb|contour|chesspieces|gnome (?:fs|dev))\b", " "),
    (r"\(\W*\)|\bclip ?art\b|\bopenclipart\b|\bsymbol 10?c?m bwh\b|\b(?:aj|ganson)\s*$", " "),
    (r"\s-\s?", ", "),
    (r"(?<=[a-z]{3})\d{1,3}\b|\b0\d\b|\b\d{1,3}(?=[\s,]*(?:black and white)?\s*$)", " "),  # numbers of a series
]
_SAYS_NOTHING = re.compile(  # a whole name of these is no caption
    r"untitled|no ?name|new document|drawing|image|icons?|button|break|quit|card|info|air|manager|mascot|part of .*|"
    r"otto|spaclu|kexi|skoynk|shaezy|squeek!|mhooo!|aviso|p p|pfd|zinf|bpoe|gim|ras|lam|liberty|reincarnate|mygraph|"
    r"media as wmd|stefan graubner|mirjam meijer|architetto.*|various.*|svg .*|.*\.py|what have you done\?|"
    r"user lambda|silvia|hygieia|shi ken|mcoon|gpride|kallisti grenade|tempus fugit|"
    r"probability .*|francobollo .*|mpcad .*|font samples|sexy lady|stripper|shadow babe"
)
_COMMON = {  # keywords that tell nothing
    *("", "hash", "unsorted", "signs_and_symbols", "icon", "icons", "sign", "symbol", "shape", "image", "svg", "theme"),
    *("clip_art", "clipart", "inkscape", "united_nations_member", "networksym", "mapsym", "appicon", "work"),
    "architetto francesco rollandin",
}
_COLOURS = (
    r"\b(?:black and white|black|white|grey|gray|red|green|seagreen|blue|yellow|orange|purple|pink|brown|colou?r)\b"
)


def clip_art_names(file: str, title: str, keywords: tuple[str, ...], creator: str) -> tuple[str, ...]:
    """What to call a picture: its name, then its name and keywords. () where nothing says what it shows.

    file: its path below png/. Names are in lower case.
    """
    stem = file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    title = html.unescape(title).strip()
    form = _COLLECTIONS.get(title, "{}" if title.startswith("Clipart by Nicu Buculei") else None)
    if form is not None:
        name = form.format(_reword(_without_creator(stem, creator)))
    elif "/cardbacks/" in file:
        name = "back of a playing card"
    elif title == "card" and (card := _CARD.match(stem)):
        suit, rank = card.groups()
        name = f"{_RANKS.get(rank, rank)} of {_SUITS[suit]}, playing card"
    else:
        name = _reword(title)
    name = translated(name, creator)
    if len(re.sub(r"[\W\d]", "", name)) < 3 or _SAYS_NOTHING.fullmatch(name):
        return ()
    flag = "/flags/" in file or {"flag", "flags"} & {key.lower() for key in keywords}
    if flag and not re.search(r"flag|ampel|fleur|dannebrog", name):
        name = "flag of " + re.sub(r"^historic, ", "", name)
    said = set(re.findall(r"\w+", name))
    more = [words(key).lower() for key in keywords if key.lower() not in _COMMON and re.fullmatch("[A-Za-z_ ]+", key)]
    more = [key for key in dict.fromkeys(more) if not said >= set(re.findall(r"\w+", key)) and len(key) < 30][:4]
    return (name, ", ".join((name, *more))) if more else (name,)


def concept_of(name: str) -> str:
    """The name without colours, numbers, "flag of": so that variants of a picture are on one side of the split."""
    return " ".join(re.sub(_COLOURS + r"|\bflag(?: of)?\b|\bsymbol\b|[\d()]", " ", name).split()).strip(" ,") or name


def _reword(text: str) -> str:
    for pattern, wording in _REWORDINGS:
        text = re.sub(pattern, wording, text, flags=0 if "A-Z" in pattern else re.IGNORECASE)
    text = " ".join(text.lower().split()).replace(" ,", ",").strip(" ,.-:")
    return re.sub(r"(?<=\w) black and white(?= |$)", ", black and white", text)


def _without_creator(stem: str, creator: str) -> str:
    """The file's words without its end, which is the beginning of the creator's name and a number."""
    parts, names = re.split(r"[_\s]+", stem.strip("_")), re.split(r"\W+", creator.lower())
    while len(parts) > 1 and (parts[-1].isdigit() or any(name.startswith(parts[-1].lower()) for name in names)):
        parts.pop()
    return " ".join(parts)
