"""What every command of every room shares: the root command, configuration files, logs and the life of a daemon."""
