"""Who looks at a run while it goes: guards, heat, recordings."""
