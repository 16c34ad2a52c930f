"""HOST: what stands in for a device's engine where that cannot run: interpreters, simulators, other engines."""
