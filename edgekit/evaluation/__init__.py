"""HOST: metrics over labelled data, and the agreement of two models."""
