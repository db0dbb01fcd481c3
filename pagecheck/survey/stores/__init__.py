"""Memory files in object stores, through fsspec: what is there, and what it holds."""

from pagecheck.survey.stores.listing import targets
from pagecheck.survey.stores.objects import Objects

__all__ = ["Objects", "targets"]
