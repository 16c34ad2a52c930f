"""The report of profiles."""
