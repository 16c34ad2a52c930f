"""The interpreter of saved Core ML packages: what a file says, computed with torch where Core ML is not."""
