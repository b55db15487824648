"""Python: everything is resolved, as far as imports, annotations and assignments say."""
