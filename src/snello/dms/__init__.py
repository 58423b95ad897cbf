"""The decision, its relaxation, its schedule and its loss."""
