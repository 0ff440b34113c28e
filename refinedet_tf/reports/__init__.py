"""The two reports for people, as pages: on the data before a training, and on the errors after it."""
