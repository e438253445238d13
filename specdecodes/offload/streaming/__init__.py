"""How weights arrive: a ring of slots, filled ahead of the layer that is being computed, in RAM or on a device."""
