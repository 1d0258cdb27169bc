"""The conformance kit: it plays every other party, and checks what an implementation does on the wire.

It knows the protocol from the specification alone, and shares no code with the implementation beside it.
"""
