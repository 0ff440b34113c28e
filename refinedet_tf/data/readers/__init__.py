"""The formats of annotations: one reader each, and what they share."""
