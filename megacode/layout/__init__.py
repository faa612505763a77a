"""Who sits where and who does what when, in plain integers, before any process or tensor exists."""
