"""Images from files, videos, cameras, stacks and data sets, and the image rule that brings them into a network."""
