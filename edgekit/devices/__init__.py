"""HOST: devices that edgekit reaches over SSH: which there are, what is brought to them, and profiles made on them.

`edgekit.devices.known` keeps the list, `edgekit.devices.connection` talks to one by the system's ssh,
`edgekit.devices.delivery` brings files, `edgekit.devices.environment` makes the Python environment there, and
`edgekit.devices.remote.profile_on` profiles.
"""
