"""Which definition a call means: types followed through a project's facts, as far as they go."""
