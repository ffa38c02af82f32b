"""A connection to a site: a shell over SSH or on this machine.

In: an address, keys, host keys. Out: commands that are run, files that are copied, tunnels to the broker.
"""
