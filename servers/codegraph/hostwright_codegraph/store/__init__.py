"""The index on disk: one database per project, and one of facts that all projects share."""
