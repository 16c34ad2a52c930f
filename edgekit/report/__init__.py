"""HOST: reports as one HTML file each: the page, its charts, and one folder of sections per kind of report."""
