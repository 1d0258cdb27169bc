"""What every Bellwire implementation agrees on: messages, codec and state machines, without any input or output.

Nothing here opens a socket, reads a clock, draws a random number or logs. Time and ids come in as arguments, and what is
to be done comes out as values, so that the same code runs in daemons and in virtual time.
"""
