"""Questions to an index. SQLite answers them; nothing of the project is held in memory."""
