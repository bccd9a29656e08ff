"""Tests, in the folders of what they test; what several of them share lies beside them."""

from pathlib import Path

# of the checkout
ROOT = Path(__file__).parent.parent
