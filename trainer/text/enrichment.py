"""Short prompts made into descriptions by a causal language model, once each."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path

from trainer.errors import UserError
from trainer.process import caches
from trainer.process.progress import Progress
from trainer.text.language_model import LanguageModel

TEMPLATE = 1  # a number for all below that a description hangs on, part of what it is kept by
EXAMPLES = (  # a small model takes their things for its own: so they differ as much as they can
    "a ripe lemon, cut in half on a wooden table, soft light from the left",
    "a brown dog, running on a beach, waves behind it",
    "a fishing boat, in a small harbour, white houses on the shore",
    "an old man in a dark coat, smiling, a blurred street behind him",
    "a silver teapot, on a striped cloth, steam above it",
    "two children, reading under a tree, long shadows on the grass",
    "a snowflake, large and sharp, against a dark blue sky",
)
SHOWN = 12  # of examples
CLAUSES = 2  # behind the prompt; what a small model says third is seldom of the picture
SHORTEST = 3  # words of a clause
MOST_TOKENS = 24
END = re.compile(r"[\n.!?;:]")
SMALL = re.compile(  # words that may be said twice
    "a|an|the|of|on|in|at|under|by|against|near|with|and|its|it|is|his|her|him|their|them|from|to|for|above|below|"
    "behind|before|beside|over|into|as|that"
)
THING = re.compile(r"\w.*?(?=,| (?:on|in|at|under|by|against|near|with|above|below|behind|beside) |$)")


class Enricher:
    """prompts -> descriptions, each of one line: the prompt as it stands, and up to two clauses more.

    So no word of a prompt is lost, and none that means something is said again. Each prompt is answered alone, by the
    likeliest words, which makes a description a function of model, examples and prompt; it is kept on disk by these,
    and where all are there no model is loaded.
    model: as of `LanguageModel`. examples: a text file, a description a line, as captions of the data that a generator
    learned from: the first 12 show what is wanted, and no words are added but those of all; None for some of our own,
    and any words.
    UserError as of `LanguageModel`, for an empty prompt, and where examples cannot be read or nothing can be written.
    """

    def __init__(self, model: str, examples: str | None = None):
        self.model = LanguageModel(model)
        self.examples = EXAMPLES if examples is None else read_examples(examples)

    @functools.cached_property
    def name(self) -> str:
        """Of the model and what it was shown, for metadata; no path, as pictures travel."""
        shown = "" if self.examples is EXAMPLES else f" examples {digest(*self.examples)[:12]}"
        return f"{self.model.identity}{shown}"

    @functools.cached_property
    def folder(self) -> Path:
        """Of a file for each description."""
        name = re.sub(r"[^\w.-]+", "-", self.name)
        return caches.root() / "enriched" / f"{name}-v{TEMPLATE}"

    def __call__(self, prompts: Sequence[str]) -> list[str]:
        plain = [" ".join(prompt.split()) for prompt in prompts]
        if not all(plain):
            raise UserError("enrich: an empty prompt; expected words to begin with, as 'a red apple'")
        known = {prompt: self._read(prompt) for prompt in dict.fromkeys(plain)}
        missing = [prompt for prompt, text in known.items() if text is None]
        progress = Progress("enriched", "prompts", len(missing))
        for done, prompt in enumerate(missing, 1):
            known[prompt] = self._write(prompt, self.described(prompt))
            progress(done)
        return [str(known[prompt]) for prompt in plain]

    def described(self, prompt: str) -> str:
        """Of a prompt in one line, by the model; the prompt itself where that ends as an example of a user's does."""
        begun = prompt.rstrip(" .,;:")
        among = () if self.examples is EXAMPLES else self.examples
        if last_word(begun) in map(last_word, among):  # there is nothing left to be said as they say it
            return prompt
        turns = [(asked(thing(example)), example) for example in self.examples[:SHOWN]]
        context, question = self.model.chat(turns, asked(begun)) or ("".join(f"{each}\n" for _, each in turns), "")
        said, whole = self.model.go_on(
            context, question + begun, MOST_TOKENS, ended, lambda said: banned(begun, said), among
        )
        return begun + tidy(said, whole)

    def _file(self, prompt: str) -> Path:
        return self.folder / f"{digest(prompt)}.json"

    def _read(self, prompt: str) -> str | None:
        try:
            kept = json.loads(self._file(prompt).read_text(encoding="utf-8"))
            return str(kept["text"]) if kept["prompt"] == prompt else None
        except (OSError, ValueError, KeyError, TypeError):  # not there, or torn: it is made again
            return None

    def _write(self, prompt: str, text: str) -> str:
        file = self._file(prompt)
        writing = file.with_name(f".{uuid.uuid4().hex}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            writing.write_text(json.dumps({"prompt": prompt, "text": text}, ensure_ascii=False), encoding="utf-8")
            os.replace(writing, file)
        except OSError as error:
            raise UserError(
                f"{self.folder}: {error.strerror}; free space or allow access there, or set "
                f"{caches.VARIABLE}=/another/folder"
            ) from error
        return text


@functools.cache
def enricher(model: str, examples: str | None) -> Enricher:
    """That of a model, which is loaded once in a process."""
    return Enricher(model, examples)


def read_examples(file: str) -> tuple[str, ...]:
    """The lines of a text file that are not empty."""
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"examples {file}: expected a UTF-8 text, a description a line ({error})") from error
    found = [" ".join(line.split()) for line in lines if line.strip()]
    if not found:
        raise UserError(f"examples {file}: all lines are empty; expected a description a line")
    return tuple(found)


def last_word(text: str) -> str:
    return text.rsplit(None, 1)[-1].strip(".,;:").lower() if text else ""


def digest(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=16).hexdigest()


def thing(description: str) -> str:
    """What a description is of: its words up to where or how that is. One without them is its own thing."""
    found = THING.search(description)
    return found[0] if found else description


def asked(prompt: str) -> str:
    """What a model that converses is told."""
    return f"Describe a picture of {prompt} in one line."


def ended(text: str) -> bool:
    """Whether what follows a prompt is enough."""
    return bool(END.search(text)) or len([each for each in text.split(",")[:-1] if each.strip()]) >= CLAUSES


def tidy(text: str, whole: bool) -> str:
    """Up to two clauses of what follows a prompt, as they stand behind it; of one that is cut off, if alone, the words.

    whole: whether the model ended by itself.
    """
    said = re.sub(r"^\w+", "", END.split(text)[0].rstrip())  # letters that would change the last word of the prompt
    found = [" ".join(each.split()).strip('"') for each in said.split(",")]
    if not whole and not ended(text):
        cut = found.pop().split()
        left = [] if any(found) else cut[:-1]
        while left and SMALL.fullmatch(left[-1]):
            left.pop()
        found.append(" ".join(left))
    first, rest = found[0], [each for each in found[1:] if each]
    return (f" {first}" if first else "") + "".join(f", {each}" for each in rest[: CLAUSES - bool(first)])


def banned(prompt: str, said: str) -> set[str]:
    """What may not come next: words that mean something once more, in one or several; a comma where a clause is short.

    A small model else repeats itself, or lists qualities of a thing that it never names.
    """
    found = {word for word in re.findall(r"[^\W\d_]+", f"{prompt} {said}".lower()) if not SMALL.fullmatch(word)}
    forms = {form for word in found for form in (word, word.removesuffix("s"), f"{word}s") if form}
    forms |= {f" {form}" for form in forms}  # tokenizers differ in where a space belongs
    return forms | {","} if 0 < len(said.rpartition(",")[2].split()) < SHORTEST else forms
