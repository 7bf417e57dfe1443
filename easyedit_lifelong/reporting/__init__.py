"""What people see: tables, progress, the demo, the doctor, trackers."""
