"""The command line, `imgmetrics`."""
