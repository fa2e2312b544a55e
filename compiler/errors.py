"""What the compiler refuses: one line that says what was found, where, and what to do."""

from __future__ import annotations

from axlora.isa.errors import Error

__all__ = ["BadAdapter", "BadModel", "BadPackage", "DoesNotFit", "Error", "UnsupportedOperator"]


class UnsupportedOperator(Error):
    """The model holds an operator, or a form of one, that the compiler does not take."""


class BadModel(Error):
    """The file is not a model, or its values cannot be run exactly on the target."""


class DoesNotFit(BadModel):
    """The model is understood, and a limit of the target (buffers, widths, slots) is too small for it."""


class BadAdapter(Error):
    """An adapter cannot be read, is of a kind that is not supported, or does not fit the model."""


class BadPackage(Error):
    """A compiled package is damaged or of another version."""
