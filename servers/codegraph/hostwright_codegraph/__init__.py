"""A graph of code: definitions, the calls between them, and what a change may break."""
