"""HOST: turning one source into proven bundles, each step in a child process."""
