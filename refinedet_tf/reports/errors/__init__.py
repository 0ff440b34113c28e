"""The report on the errors of an evaluation: their kinds, what they cost, and where they are."""
