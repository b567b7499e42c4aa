"""Asking a person for a user name or a password: at a terminal or in a notebook, and never where nobody is."""

from __future__ import annotations

import getpass
import warnings

from regaudit.errors import UsageError
from regaudit.text import clean


def ask_password(prompt: str, *, instead: str) -> str:
    """Return what a person types unseen; it is neither shown nor kept.

    Parameters
    ----------
    prompt : str
        What is asked.
    instead : str
        What to do where there is nobody to ask, for the error.

    Raises
    ------
    UsageError
        Nobody can be asked, or not unseen.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # it would read with the password in view
            return getpass.getpass(clean(prompt, 300))
    # Notebooks that nobody sits at raise an error of IPython's own, which is a NotImplementedError.
    except (getpass.GetPassWarning, EOFError, NotImplementedError):
        raise UsageError(f"there is no terminal to ask for the password at: {instead}") from None


def ask_name(prompt: str, *, instead: str) -> str:
    """Return what a person types in view, without blanks around it; raises `UsageError` where nobody can be asked."""
    try:
        return input(clean(prompt, 300)).strip()
    except (EOFError, NotImplementedError):
        raise UsageError(f"there is nobody to ask for a user name: {instead}") from None


__all__ = ["ask_name", "ask_password"]
