; What of a Python file carries facts; the extractor reads the captures in the order of the text.
[
  (function_definition)
  (class_definition)
  (call)
  (import_statement)
  (import_from_statement)
  (assignment)
  (return_statement)
  (yield)
  (with_item)
  (for_statement)
  (for_in_clause)
  (named_expression)
  (decorator)
  (raise_statement)
  (global_statement)
  (except_clause)
] @fact
