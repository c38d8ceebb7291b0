"""Large values: stored once, by their content, beside the tables, and opened when they are read."""
