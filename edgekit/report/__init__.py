"""HOST: results for people to read: pages of one HTML file each, charts, and the table of profiles.

It reads the structures of calibration, evaluation and profiling; none of them knows of it. Pages need Jinja2 (the extra
``report``); `numbers` and `profile_table` need nothing.
"""
