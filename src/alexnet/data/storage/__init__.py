"""Where files come from: folders, archives, downloads and remote stores."""
