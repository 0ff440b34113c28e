"""This package looks at a data set before it is trained on: numbers, defects, pictures and advice."""
