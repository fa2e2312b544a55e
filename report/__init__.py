"""Numbers to tables: reads results, never runs anything."""
