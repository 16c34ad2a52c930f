"""HOST: one pipeline from a trained model to validated bundles; each stage runs in a child process."""
