"""Whole networks in virtual time, with the simulated world as the oracle: scenarios, workloads, checkers and sweeps."""
