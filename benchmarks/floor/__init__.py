"""What the repulsive pair floor does for the stability of dynamics."""
