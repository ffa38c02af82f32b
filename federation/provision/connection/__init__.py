"""A connection to a site: a shell over SSH or on this machine.

In: an address, keys, host keys. Out: commands run as lists of words, files copied, tunnels to the broker.
"""
