"""HOST: devices that edgekit reaches over SSH: which there are, what is brought to them, and profiles made on them.

`known` keeps the list, `connection` talks to one by the system's ssh, `delivery` brings files, `environment` makes the
Python environment there, and `remote.profile_on` profiles.
"""
