"""The base of every error that a user can cause."""

from __future__ import annotations


class Error(Exception):
    """One line that says what was found, where, and what to do.

    Attributes:
        message: what was found.
        where: the node, file or field; may be empty.
        hint: what to do; may be empty.
    """

    def __init__(self, message: str, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where and self.where not in self.message else ""
        hint = f" ({self.hint})" if self.hint else ""
        return " ".join(f"{where}{self.message}{hint}".split())
