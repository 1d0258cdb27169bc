"""The simulated world: photonic links, stations, memories and states behind the simulated backends."""
