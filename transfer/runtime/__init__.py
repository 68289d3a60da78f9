"""What every process stands on: errors, params, paths, files, disk, signals, progress and seeding."""
