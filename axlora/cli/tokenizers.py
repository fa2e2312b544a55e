"""What makes token ids of text, and text of them."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from .given import bad


def tokenizer(name: str) -> Bytes | Json:
    """A new one: `bytes`, or of the file of that name; errors as `Json`."""
    return Bytes() if name == "bytes" else Json(name)


class Bytes:
    """Each byte of UTF-8 is a token."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def encode(self, text: str) -> Sequence[int]:
        """Ids of a prompt."""
        return text.encode()

    def decode(self, token: int) -> str:
        """What this token adds to the text."""
        return self._decoder.decode(bytes([token])) if token < 256 else "\N{REPLACEMENT CHARACTER}"


class Json:
    """A Hugging Face tokenizer.json (needs the package `tokenizers`)."""

    def __init__(self, path: str) -> None:
        try:
            from tokenizers import Tokenizer as Loaded
        except ModuleNotFoundError:
            raise bad("the package 'tokenizers' is not installed", "--tokenizer", "pip install tokenizers") from None
        try:
            self._tokenizer = Loaded.from_file(path)
        except Exception as error:  # the library raises plain Exception
            raise bad(f"{path} is not a tokenizer.json: {str(error)[:100]}", "--tokenizer", "give the file") from None
        self._ids: list[int] = []
        self._text = ""

    def encode(self, text: str) -> Sequence[int]:
        return [int(i) for i in self._tokenizer.encode(text).ids]

    def decode(self, token: int) -> str:
        self._ids.append(token)
        before, self._text = self._text, self._tokenizer.decode(self._ids)
        return self._text[len(before) :] if self._text.startswith(before) else ""
