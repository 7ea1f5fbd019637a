"""What labels the images: folders, label files, and the names of classes."""
