"""What is wrong here, all of it at once: the work of `hostwright check` and `hostwright doctor`.

`configuration` and `storage` look at files, `live` at the daemon and its servers, `machine` at
what all of it stands on and at the clients. They change nothing and create nothing, and each fault
is a `Finding` with its remedy, never an exception.
"""
