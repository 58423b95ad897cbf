"""Pure tensor functions. Each folder holds a reference, fast versions, and the choice between."""
