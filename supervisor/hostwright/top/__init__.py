"""`hostwright top`: what the suite does, live, in a terminal."""
