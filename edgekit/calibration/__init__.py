"""HOST: the data a model is calibrated and proven on."""
