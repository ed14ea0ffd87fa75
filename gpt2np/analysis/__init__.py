"""What can be computed from a trace and a model: lenses, attribution, circuits, statistics."""
