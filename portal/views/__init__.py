"""One file per trip: thin, plain functions from a request to an answer."""
