"""Which files of the repository are pages of the site."""

PAGES = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/notebooks/*.md",
    "examples/*/README.md",
    "refinedet_tf/pretrained/MODEL_CARD.md",
    "serving/README.md",
)
"""Patterns of their paths from the root of the repository."""
