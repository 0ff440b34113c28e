"""The two reports for people, as pages: on the data before a training, and on the errors after it."""

PAGE, NUMBERS = "report.html", "report.json"
"""The names of the two files in the folder of a report."""
