"""Every knob, as frozen dataclasses with units in their names. Nothing here imports torch."""
