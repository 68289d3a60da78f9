"""What every process needs: errors, params, paths, files, locks, disk, signals, progress and seeding."""
