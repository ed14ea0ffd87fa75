"""What a run records, and how: sites, byte plan, steps, trace."""
