"""Key/value memory: slots in rows behind one another, and the focused view of a draft. Knows no attention, no model."""
