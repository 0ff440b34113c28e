"""Where the arrays of the authors' program lie."""

from pathlib import Path

GOLDEN_FOLDER = Path(__file__).parent.parent / "golden"
