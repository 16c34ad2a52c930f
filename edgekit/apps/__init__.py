"""HOST: apps around a bundle, written as projects that a user opens, changes and ships: ``edgekit app``."""
