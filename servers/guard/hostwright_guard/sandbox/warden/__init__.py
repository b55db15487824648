"""The process beside the server that starts sandboxes and ends them. Standard library only.

Run in an interpreter of its own (`nursery.main`), which imports nothing else of ours: it waits,
single-threaded and small, and is forked once per sandbox. So a start costs no interpreter, and what
may only be done by a process with one thread (joining namespaces) is done by one.
"""
