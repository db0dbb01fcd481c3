"""What a scan found: the report, what the workers counted, bitmap files and their publication."""
