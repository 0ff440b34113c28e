"""What the command line runs: `refinedet COMMAND`, and the scripts of a checkout."""
