"""How frames move between processes: ZeroMQ sockets with CURVE, keys, and the driver that awaits on behalf of the machines."""
