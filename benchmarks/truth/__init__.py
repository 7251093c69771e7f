"""Long runs of models beside the same runs of their teachers."""
