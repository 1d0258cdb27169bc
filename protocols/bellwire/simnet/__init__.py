"""Protocols in virtual time: the code that the daemons run, in one process, without sockets, with faults from a seed."""
