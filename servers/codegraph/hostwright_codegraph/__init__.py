"""A graph of code: definitions, resolved calls and what may break, held beside the code it tells of."""
