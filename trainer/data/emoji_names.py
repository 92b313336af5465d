"""Captions for emoji. Unicode names are official and old; a caption should say what the picture shows."""

from __future__ import annotations

import re
from typing import Any

# Code points -> name, where the list has none yet or its name tells another colour or thing than the picture.
_SHOWN = {
    "23-20e3": "keycap hash",
    "2a-20e3": "keycap asterisk",
    "1f0cf": "joker playing card",
    "1f1e8-1f1f6": "flag of Sark",
    "1f468-200d-1f384": "man with a santa hat",
    "1f469-200d-1f384": "woman with a santa hat",
    "1f52b": "water pistol",
    "1f53c": "button with a triangle pointing up",
    "1f53d": "button with a triangle pointing down",
    "1f574-200d-2640": "woman in suit levitating",
    "1f574-200d-2642": "man in suit levitating",
    "1f6d8": "landslide",
    "1f9d1-200d-1fa70": "ballet dancer",
    "1fa89": "harp",
    "1fa8a": "trombone",
    "1fa8e": "treasure chest",
    "1fa8f": "shovel",
    "1fabe": "leafless tree",
    "1fac6": "fingerprint",
    "1fac8": "hairy creature",
    "1facd": "orca",
    "1fadc": "root vegetable",
    "1fadf": "splatter",
    "1fae9": "face with bags under eyes",
    "1faea": "distorted face",
    "1faef": "fight cloud",
    "260e": "red telephone",
    "263a": "smiling face with closed eyes",
    "2611": "blue button with a check mark",
    "2705": "green button with a check mark",
    "274e": "green button with a cross mark",
    "2753": "red question mark",
    "2754": "grey question mark",
    "2755": "grey exclamation mark",
    "2757": "red exclamation mark",
    "2764": "red heart",
    "2b50": "yellow star",
    "2b55": "hollow red circle",
    "2716": "multiplication sign",
}
_REWORDINGS: list[tuple[str, str]] = [  # each on the result of the last
    (r"^([A-ZÅÉ].*) Flag$", r"flag of \1"),
    (r"^keycap: ", "keycap "),
    (r"^clock face (\w+) oclock$", r"clock showing \1 o'clock"),
    (r"^clock face (\w+) thirty$", r"clock showing half past \1"),
    (r"^(man|woman|person): bald$", r"bald \1"),
    (r"^(man|woman|person): ", r"\1 with "),
    (r"^(family|kiss): ", r"\1 of "),
    (r"^couple with heart: ", "couple with heart, "),
    (r"^(?:negative squared|circled) latin capital letter ", "button with the letter "),
    (r"^squared katakana .*$", "blue button with a japanese character"),
    (r"^squared cjk unified ideograph .*$", "button with a japanese character"),
    (r"^circled ideograph .*$", "round button with a japanese character"),
    (r"^(?:negative )?squared ", "button with the letters "),
    (r"^white (\w+) pointing (backhand )?index$", r"\2index finger pointing \1"),
    (r"^black (\w+) pointing (double )?triangle$", r"button with a \2triangle pointing \1"),
    (r"^(up|down|left|right)wards black arrow$", r"button with an arrow pointing \1"),
    (r"^black rightwards arrow$", "button with an arrow pointing right"),
    (r"^black (?=scissors|nib|universal|sun|chess|spade|club|heart suit|diamond)", ""),
    (r"^(?:heavy|white) (?=frowning|plus|minus|division|equals|check|dollar)", ""),
    (r"\b(wo)?mans\b", r"\1man's"),
    (r"\b(wo)?mens\b", r"\1men's"),
    (r"^(?!sign |.* with )(.*(?:hands?|thumbs \w+|moon|voltage|collision|dizzy|link)) (?:sign|symbol)$", r"\1"),
]


def emoji_names(code: str, entry: dict[str, Any] | None) -> tuple[str, ...]:
    """What to call an emoji, best first: its name, then the short names that people type. None known: ().

    code: its code points without variation selectors. entry: its row in emoji.json, where it has one.
    """
    if entry is None:
        return (_SHOWN[code],) if code in _SHOWN else ()
    name = entry["name"].lower() if entry["name"].isupper() else entry["name"]
    if entry["category"] != "Flags":
        name = re.sub(r"\s*-\s*", " ", name.replace("’", "'"))
    for pattern, wording in _REWORDINGS:
        name = re.sub(pattern, wording, name)
    short = (re.sub("[-_]+", " ", word).strip() for word in entry["short_names"] if not word.startswith("flag-"))
    words = [word for word in short if word.replace(" ", "").isalpha() and len(word) > 2]
    if not re.search("black|white", name):  # there the old words mean filled and hollow
        words = [word for word in words if not re.match("(black|white) ", word)]
    return tuple(dict.fromkeys([_SHOWN.get(code, name), *words]))
