"""What every room stands on: errors, files, images, records, tasks. Never imports torch at load."""
